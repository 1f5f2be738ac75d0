"""What does a notebook call?"""
