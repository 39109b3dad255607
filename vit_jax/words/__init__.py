"""Words for people: nearest names, tables of text, units; and names looked up."""
