"""What carries the new ability: old-task heads, new heads, or none of these."""
