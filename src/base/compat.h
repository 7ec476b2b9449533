/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  What differs between the versions of PostgreSQL (15 to 19) and of
 *	  libnats (3.4.1 to 3.14).  No other file asks for a version.
 *
 * Each half is there for the files that have included what it is about.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_COMPAT_H
#define NP_COMPAT_H

#ifdef NATS_VERSION_NUMBER

#if NATS_VERSION_NUMBER < 0x030401
#error "nats_publish needs libnats 3.4.1 or later"
#endif

/* Since 3.9.3 an event loop closes the socket once the library lets go of it. */
#if NATS_VERSION_NUMBER >= 0x030903
#define np_compat_close_socket(fd)	natsConnection_ProcessCloseEvent(fd)
#else
#define np_compat_close_socket(fd)	((void) (fd))
#endif

/* Since 3.11 a connection in an event loop is freed only after this call. */
#if NATS_VERSION_NUMBER >= 0x030B00
#define np_compat_detached(nc)		natsConnection_ProcessDetachedEvent(nc)
#else
#define np_compat_detached(nc)		((void) (nc))
#endif

/* Since 3.9 TLS can begin before the server's first line. */
#if NATS_VERSION_NUMBER >= 0x030900
#define NP_COMPAT_HAS_HANDSHAKE_FIRST		true
#define np_compat_handshake_first(options)	natsOptions_TLSHandshakeFirst(options)
#else
#define NP_COMPAT_HAS_HANDSHAKE_FIRST		false
#define np_compat_handshake_first(options)	NATS_NO_SERVER_SUPPORT
#endif

/* Since 3.14 the library knows the name of the server, too. */
#if NATS_VERSION_NUMBER >= 0x030E00
#define np_compat_server_name(nc, buffer, size) natsConnection_GetConnectedServerName((nc), (buffer), (size))
#else
#define np_compat_server_name(nc, buffer, size) natsConnection_GetConnectedServerId((nc), (buffer), (size))
#endif

#endif							/* NATS_VERSION_NUMBER */

#ifdef PG_VERSION_NUM

#if PG_VERSION_NUM < 150000
#error "nats_publish needs PostgreSQL 15 or later"
#endif

/* A WaitEventSet for the life of the backend; 17 wants a resource owner first. */
#if PG_VERSION_NUM >= 170000
#define np_compat_create_wait_event_set(n)	CreateWaitEventSet(NULL, (n))
#else
#define np_compat_create_wait_event_set(n)	CreateWaitEventSet(TopMemoryContext, (n))
#endif

/* get_database_name() has moved in 19. */
#if PG_VERSION_NUM >= 190000
#include "utils/lsyscache.h"
#else
#include "commands/dbcommands.h"
#endif

/* The inside of a text has a header of its own since 16. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* The number of a wait event by its name; utils/wait_event.h must have been included. */
#if PG_VERSION_NUM >= 170000
#define np_compat_wait_event(name)	WaitEventExtensionNew(name)
#else
#define np_compat_wait_event(name)	((void) (name), PG_WAIT_EXTENSION)
#endif

/*
 * Shared memory of a name that any backend can ask for; NULL before 17, which
 * has it for preloaded libraries only.  19 gives the initializer an argument,
 * in which ours travels: a pointer to data may not hold one to a function.
 */
#if PG_VERSION_NUM >= 170000
#include "storage/dsm_registry.h"
#endif
#if PG_VERSION_NUM >= 190000
static inline void
np_compat_initialize(void *memory, void *initialize)
{
	(*(void (**) (void *)) initialize) (memory);
}

static inline void *
np_compat_named_memory(const char *name, size_t size, void (*initialize) (void *), bool *found)
{
	return GetNamedDSMSegment(name, size, np_compat_initialize, found, &initialize);
}
#elif PG_VERSION_NUM >= 170000
#define np_compat_named_memory(name, size, initialize, found) \
	GetNamedDSMSegment((name), (size), (initialize), (found))
#else
#define np_compat_named_memory(name, size, initialize, found) \
	((void) (name), (void) (size), (void) (initialize), *(found) = false, NULL)
#endif

/* This process's place among all that can have a database; below MaxBackends. */
#if PG_VERSION_NUM >= 170000
#define np_compat_my_number()	MyProcNumber
#else
#define np_compat_my_number()	(MyBackendId - 1)
#endif

/* A lexer, palloc'd; 17 can be given one to use instead. */
#if PG_VERSION_NUM >= 170000
#define np_compat_json_lexer(json, length) \
	makeJsonLexContextCstringLen(NULL, (json), (length), PG_UTF8, true)
#else
#define np_compat_json_lexer(json, length) \
	makeJsonLexContextCstringLen(unconstify(char *, (json)), (length), PG_UTF8, true)
#endif

/* The JSON parser's actions return a result since 16. */
#if PG_VERSION_NUM >= 160000
#define NP_JSON_ACTION			JsonParseErrorType
#define NP_JSON_ACTION_RETURN	return JSON_SUCCESS
#else
#define NP_JSON_ACTION			void
#define NP_JSON_ACTION_RETURN	return
#endif

/* A row of a decoded change (ReorderBufferChange), or NULL; 17 has no buffer around it any more. */
#if PG_VERSION_NUM >= 170000
#define np_compat_decoded_row(row)	(row)
#else
#define np_compat_decoded_row(row)	((row) == NULL ? NULL : &(row)->tuple)
#endif

/* Before a declaration. */
#if PG_VERSION_NUM >= 180000
#define NP_NORETURN pg_noreturn
#else
#define NP_NORETURN pg_attribute_noreturn()
#endif

#if PG_VERSION_NUM >= 180000
#define NP_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "nats_publish", .version = NP_VERSION)
#else
#define NP_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* Is a column (Form_pg_attribute) computed when it is read?  Since 18 it can be. */
#if PG_VERSION_NUM >= 180000
#define np_compat_is_virtual(column)	((column)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define np_compat_is_virtual(column)	false
#endif

/* To be called when a tuple descriptor has its columns, since 19: it is not usable before. */
#if PG_VERSION_NUM >= 190000
#define np_compat_finalize(columns)	TupleDescFinalize(columns)
#else
#define np_compat_finalize(columns)	((void) 0)
#endif

/* Does the role have USAGE on a foreign server? */
#if PG_VERSION_NUM >= 160000
#define np_compat_may_use_server(server, role) \
	(object_aclcheck(ForeignServerRelationId, (server), (role), ACL_USAGE) == ACLCHECK_OK)
#else
#define np_compat_may_use_server(server, role) \
	(pg_foreign_server_aclcheck((server), (role), ACL_USAGE) == ACLCHECK_OK)
#endif

/* Intervals can be infinite since 17: is it the positive one? */
#if PG_VERSION_NUM >= 170000
#define np_compat_interval_is_endless(span)	INTERVAL_IS_NOEND(span)
#else
#define np_compat_interval_is_endless(span)	false
#endif

/* Since 17 a database can end its transactions that take too long. */
#if PG_VERSION_NUM >= 170000
#define np_compat_no_transaction_timeout() \
	SetConfigOption("transaction_timeout", "0", PGC_USERSET, PGC_S_OVERRIDE)
#else
#define np_compat_no_transaction_timeout()	((void) 0)
#endif

/* All settings; utils/guc_tables.h must have been included. */
#if PG_VERSION_NUM >= 160000
#define np_compat_settings(count) get_guc_variables(count)
#else
#define np_compat_settings(count) (*(count) = GetNumConfigOptions(), get_guc_variables())
#endif

/* Has a slot (ReplicationSlotPersistentData *) lost WAL that it needs, or is otherwise not to be used any more? */
#if PG_VERSION_NUM >= 160000
#define np_compat_slot_is_lost(slot)	((slot)->invalidated != RS_INVAL_NONE)
#else
#define np_compat_slot_is_lost(slot)	(!XLogRecPtrIsInvalid((slot)->invalidated_at))
#endif

/* Slots can be kept up to date on standbys since 17. */
#if PG_VERSION_NUM >= 170000
#define NP_COMPAT_HAS_FAILOVER				true
#define np_compat_slot_has_failover(slot)	((slot)->failover)
#else
#define NP_COMPAT_HAS_FAILOVER				false
#define np_compat_slot_has_failover(slot)	((void) (slot), false)
#endif

/* Have all standbys of synchronized_standby_slots the WAL up to a position?  Who has not is logged at this level.  Since 17. */
#if PG_VERSION_NUM >= 170000
#define np_compat_standby_slots_have(position, level)	StandbySlotsHaveCaughtup((position), (level))
#else
#define np_compat_standby_slots_have(position, level)	((void) (position), (void) (level), true)
#endif

/* Can WAL be decoded with this wal_level?  Since 19 it is raised when there is a slot. */
#if PG_VERSION_NUM >= 190000
#define NP_COMPAT_WAL_LEVEL		WAL_LEVEL_REPLICA
#define NP_COMPAT_WAL_LEVEL_NAME	"replica"
#else
#define NP_COMPAT_WAL_LEVEL		WAL_LEVEL_LOGICAL
#define NP_COMPAT_WAL_LEVEL_NAME	"logical"
#endif

/* What an operator means to indexes with an order, NIL if nothing. */
#if PG_VERSION_NUM >= 180000
#define np_compat_operator_meanings(operator)	get_op_index_interpretation(operator)
#else
#define np_compat_operator_meanings(operator)	get_op_btree_interpretation(operator)
#endif

/* copyObject() needs the compiler that the server was built with, since 19. */
#define np_compat_copy(node)	copyObjectImpl(node)

/* When a transaction (ReorderBufferTXN *) has committed. */
#if PG_VERSION_NUM >= 190000
#define np_compat_commit_time(transaction)	((transaction)->commit_time)
#else
#define np_compat_commit_time(transaction)	((transaction)->xact_time.commit_time)
#endif

/* Have a slot be ours; ERROR if another process has it. */
#if PG_VERSION_NUM >= 180000
#define np_compat_slot_acquire(name)	ReplicationSlotAcquire((name), true, true)
#else
#define np_compat_slot_acquire(name)	ReplicationSlotAcquire((name), true)
#endif

/* Write a message of the transaction into the WAL. */
#if PG_VERSION_NUM >= 170000
#define np_compat_log_message(prefix, data, length)	LogLogicalMessage((prefix), (data), (length), true, false)
#else
#define np_compat_log_message(prefix, data, length)	LogLogicalMessage((prefix), (data), (length), true)
#endif

/* Delete a row that a snapshot sees, unless somebody else is about to write it. */
#if PG_VERSION_NUM >= 190000
#define np_compat_tuple_delete(table, place, snapshot, failure) \
	table_tuple_delete((table), (place), GetCurrentCommandId(true), 0, (snapshot), InvalidSnapshot, false, (failure))
#else
#define np_compat_tuple_delete(table, place, snapshot, failure) \
	table_tuple_delete((table), (place), GetCurrentCommandId(true), (snapshot), InvalidSnapshot, false, (failure), false)
#endif

/*
 * A function for expression_tree_walker(): without arguments in its prototype,
 * which is (void) to a compiler of C23.  By way of void (*) (void), which
 * -Wcast-function-type lets be any function.
 */
#if PG_VERSION_NUM >= 160000
#define NP_COMPAT_WALKER(walker)	(walker)
#else
#define NP_COMPAT_WALKER(walker)	((bool (*) ()) (void (*) (void)) (walker))
#endif

#endif							/* PG_VERSION_NUM */

#endif							/* NP_COMPAT_H */
