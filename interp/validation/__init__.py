"""May this direction be deployed? Gates with evidence, and the card that shows them."""
