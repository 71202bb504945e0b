"""The service layer: the semantics of CRI over the protocols of `interfaces/` (ordering, locks, joining of retries, recovery).
It imports no backend, store or network.
"""
