"""What is done, in which order?"""
