"""The protocols between the service layer and everything that it uses, each with its contract. A class may name the protocol
as a base, and Python then checks that it has the verbs; structural typing works too.
"""
