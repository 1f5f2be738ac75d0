"""What is measured, and written as arrays?"""
