"""How does it look? Pages and pictures made of the series."""
