"""The networks, and what all of them share: inputs in [0, 1], standardised inside."""
