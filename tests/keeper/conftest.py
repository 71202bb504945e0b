from tests.keeper.world import world

__all__ = ["world"]
