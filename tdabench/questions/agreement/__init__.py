"""How much do two methods agree, whatever the truth?"""
