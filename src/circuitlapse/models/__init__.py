"""What is the model? Its engine, its families and its files."""
