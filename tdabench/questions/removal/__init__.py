"""Does the loss rise when the most helpful examples are removed?"""
