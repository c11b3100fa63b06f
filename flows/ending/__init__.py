"""How what a shell has started ends: once asked, twice asked, or killed."""
