/*
 * backend.c
 *		What the files of src/ that include postgres.h find where there is no server.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/jsonapi.h"
#include "mb/pg_wchar.h"

#include "backend.h"
#include "base/compat.h"
#include "fuzz.h"

int			backend_encoding = PG_UTF8;
jmp_buf    *backend_catch;

/* ---- Memory: one context, that of the input ------------------------------ */

typedef struct Chunk
{
	struct Chunk *previous;
	struct Chunk *next;
} Chunk;

static Chunk chunks = {&chunks, &chunks};

MemoryContext CurrentMemoryContext;

static void
link_chunk(Chunk *chunk)
{
	chunk->previous = &chunks;
	chunk->next = chunks.next;
	chunk->previous->next = chunk->next->previous = chunk;
}

static Chunk *
unlink_chunk(void *pointer)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;

	chunk->previous->next = chunk->next;
	chunk->next->previous = chunk->previous;
	return chunk;
}

void *
palloc(Size size)
{
	Chunk	   *chunk = malloc(sizeof(Chunk) + size);

	link_chunk(chunk);
	return chunk + 1;
}

void *
palloc0(Size size)
{
	return memset(palloc(size), 0, size);
}

void *
repalloc(void *pointer, Size size)
{
	Chunk	   *chunk = realloc(unlink_chunk(pointer), sizeof(Chunk) + size);

	link_chunk(chunk);
	return chunk + 1;
}

void
pfree(void *pointer)
{
	free(unlink_chunk(pointer));
}

char *
pnstrdup(const char *text, Size length)
{
	char	   *copy;

	length = strnlen(text, length);
	copy = palloc(length + 1);
	memcpy(copy, text, length);
	copy[length] = '\0';
	return copy;
}

char *
pstrdup(const char *text)
{
	return pnstrdup(text, strlen(text));
}

char *
MemoryContextStrdup(MemoryContext context, const char *text)
{
	return pstrdup(text);
}

void
backend_free_all(void)
{
	while (chunks.next != &chunks)
		pfree(chunks.next + 1);
}

/* ---- Errors ---------------------------------------------------------------- */

bool
errstart(int elevel, const char *domain)
{
	return true;
}

bool
errstart_cold(int elevel, const char *domain)
{
	return true;
}

void
errfinish(const char *file, int line, const char *function)
{
	if (backend_catch != NULL)
		longjmp(*backend_catch, 1);
	fuzz_fail("no ERROR", file, line);
}

int
errcode(int sqlstate)
{
	return 0;
}

/* For a PG_TRY around what does not throw here. */
sigjmp_buf *PG_exception_stack;
ErrorContextCallback *error_context_stack;

void
pg_re_throw(void)
{
	abort();
}

int
geterrcode(void)
{
	return 0;
}

ErrorData *
CopyErrorData(void)
{
	return NULL;
}

void
FlushErrorState(void)
{
}

char *
unpack_sql_state(int sqlstate)
{
	return "";
}

/* Formatted only to see what a sanitizer says. */
#define DEFINE_MESSAGE(function) \
int \
function(const char *format, ...) \
{ \
	char		text[2048]; \
	va_list		arguments; \
	va_start(arguments, format); \
	vsnprintf(text, sizeof(text), format, arguments); \
	va_end(arguments); \
	return 0; \
}

DEFINE_MESSAGE(errmsg)
DEFINE_MESSAGE(errdetail)
DEFINE_MESSAGE(errhint)

/* ---- Interrupts: there are none ---------------------------------------------- */

volatile sig_atomic_t InterruptPending = false;

void
ProcessInterrupts(void)
{
}

/* ---- The encoding of the database ------------------------------------------ */

int
GetDatabaseEncoding(void)
{
	return backend_encoding;
}

int
pg_encoding_mbcliplen(int encoding, const char *text, int length, int limit)
{
	if (length <= limit)
		return length;
	/* not within a character: what follows is none of its other bytes */
	while (encoding == PG_UTF8 && limit > 0 && (text[limit] & 0xc0) == 0x80)
		limit--;
	return limit;
}

int
pg_mbcliplen(const char *text, int length, int limit)
{
	return pg_encoding_mbcliplen(backend_encoding, text, length, limit);
}

bool
pg_verify_mbstr(int encoding, const char *text, int length, bool no_error)
{
	return pg_encoding_verifymbstr(encoding, text, length) == length;
}

char *
pg_server_to_any(const char *text, int length, int encoding)
{
	return unconstify(char *, text);
}

/* There is no transaction to look for a conversion in. */
bool
IsTransactionState(void)
{
	return false;
}

Oid
FindDefaultConversionProc(int32 from, int32 to)
{
	return InvalidOid;
}

int
pg_do_encoding_conversion_buf(Oid conversion, int from, int to, unsigned char *source, int length,
							  unsigned char *target, int room, bool no_error)
{
	return 0;
}

/* ---- JSON ------------------------------------------------------------------ */

bool
backend_is_json(const char *json)
{
	return pg_parse_json(np_compat_json_lexer(json, strlen(json)), &nullSemAction) == JSON_SUCCESS;
}
