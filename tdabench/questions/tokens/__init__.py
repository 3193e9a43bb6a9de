"""Which tokens matter to which?"""
