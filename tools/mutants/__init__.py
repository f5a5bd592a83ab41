"""Small mistakes in the code that matters most, and which test finds each."""
