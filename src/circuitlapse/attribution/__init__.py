"""How much does each edge matter? Attribution by gradients, and exactly."""
