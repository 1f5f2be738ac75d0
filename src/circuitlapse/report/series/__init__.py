"""Which numbers are drawn?"""
