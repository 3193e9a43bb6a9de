"""How does cost grow with the model?"""
