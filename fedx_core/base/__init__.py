"""What everything else stands on: errors, states, seeds, settings, strict readers, locks."""
