"""How often is the rule right? Organisms with a known answer are made and judged."""
