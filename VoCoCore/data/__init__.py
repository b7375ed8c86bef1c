"""Cases and their voxels: finding, reading and checking them, preparing them once, sampling crops from them.

`sources.index_source` finds cases, `cases` holds them, `splits` divides them by patient, `images` reads them,
`check` says what is wrong with them; `plan`, `prepare` and `store` make the prepared volumes; `sampling`,
`crops` and `augment` turn those into batches. Importing the package itself brings nothing else in.
"""
