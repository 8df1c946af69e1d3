"""A job's shards into a database: what a database has to offer (`sink`), how it is loaded (`loading`), one each."""
