"""What to show to users of whom little is known: a prediction that knows how unsure it is."""
