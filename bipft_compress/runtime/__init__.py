"""The packed artefact and what runs it: bits on disk, in memory and in the arithmetic."""
