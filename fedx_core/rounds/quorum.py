"""How many clients a round needs."""


def needed(min_reports: int, asked: int, refused: int) -> int:
    """Return the reports without which a round does not count.

    Args:
        min_reports: that the settings want; 0 wants all whose answers can be taken.
        asked: clients, or as many of them as a round takes.
        refused: clients whose answers came and were refused. Else a single one that lies could end
            a run that wants all; but half of those asked must count.
    """
    if min_reports:
        return min(min_reports, asked)
    return max(asked - refused, (asked + 1) // 2)
