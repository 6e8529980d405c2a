"""The subcommands of ``lasttoken-export`` beside the export itself."""
