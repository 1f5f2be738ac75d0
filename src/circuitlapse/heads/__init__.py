"""What did each head and edge become? Definitions on arrays; no model is needed."""
