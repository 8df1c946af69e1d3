"""Loading of a job's shards into a database: the interface (`sink`), the loading (`loading`), a module per database."""
