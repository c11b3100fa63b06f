"""The commands of ``fedx``, one file each; slow modules are imported where they are used."""
