/*
 * backend.h
 *		What the files of src/ that include postgres.h find where there is no server.
 *
 * Only as far as the fuzz targets need it: memory, ereport, and the encoding of a database.  The JSON parser,
 * StringInfo and psprintf are PostgreSQL's own, from the libraries for its clients.
 */
#ifndef BACKEND_H
#define BACKEND_H

#include <setjmp.h>
#include <stdbool.h>

extern int	backend_encoding;	/* the database's */
extern jmp_buf * backend_catch; /* where an ERROR goes; NULL: nothing may raise one */

extern void backend_free_all(void);
extern bool backend_is_json(const char *json);

#endif							/* BACKEND_H */
