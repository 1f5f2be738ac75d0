"""How good is a circuit? Faithfulness, completeness, minimality and known heads."""
