"""Reports: of a study (`study`), of a trace (`trace`), and what both are drawn and written with."""
