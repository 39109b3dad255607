"""What the commands share: arguments, recipes, tables of text."""
