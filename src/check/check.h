/*-------------------------------------------------------------------------
 *
 * check.h
 *	  What the doctor, nats_check(), looks at and finds.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CHECK_H
#define NP_CHECK_H

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

#include "publish/delivery.h"

/* From the best to the worst. */
typedef enum NpCheckStatus
{
	NP_CHECK_OK,
	NP_CHECK_UNKNOWN,
	NP_CHECK_WARNING,
	NP_CHECK_FAILED
} NpCheckStatus;

/* One row: the worst of what a check has found, and all of it in sentences. */
typedef struct NpFinding
{
	NpCheckStatus status;
	StringInfoData detail;
} NpFinding;

/* A stream that takes the subject, in UTF-8; what is longer is cut. */
typedef struct NpAnswer
{
	char		stream[256];
	const char *place;			/* where the account's own JetStream does not see it, as a clause; NULL:
								 * nowhere else */
} NpAnswer;

#define NP_MAX_ANSWERS		8

/* What became of a message to the subject, as those who got it or would have got it say. */
typedef struct NpAnswers
{
	NpAnswer	list[NP_MAX_ANSWERS];
	int			count;			/* more than there is room for are only counted */
	char		refusal[256];	/* of a stream, in the database's encoding; empty: none */
	bool		nobody;			/* not one stream takes it, wherever */
	int			strangers;		/* that answer and are not JetStream */
	int			subscribers;	/* that would get it; -1: not known */
	NpFailure	failure;		/* NP_FAULT_NONE: none */
} NpAnswers;

/*
 * What is known so far.  The texts and JSON live as long as the call; what
 * could not be found out is NULL, and the reason is beside it.
 */
typedef struct NpExamination
{
	NpSpan		subject;		/* in UTF-8; absent: none is asked about */
	bool		probe;			/* may a message be sent to it, that subscribers see? */
	Oid			schema;			/* of the extension */
	bool		is_relayed;		/* the outbox of this database is published */

	NpSession  *session;		/* NULL: not known which */
	const char *unreachable;	/* why the server can't be asked; NULL: it can */
	Jsonb	   *info;			/* of the server; NULL: not known */

	const char *api_silence;	/* why JetStream is not asked any more; NULL: it is */
	bool		api_refused;	/* the NATS user may not ask JetStream something */
	Jsonb	   *account;		/* of $JS.API.INFO */
	const char *no_jetstream;	/* what to do about that the account has none; NULL: it has, or that is not
								 * known */

	bool		asked_user;
	Jsonb	   *user;			/* what the server says of the NATS user */
	NpFailure	user_failure;	/* when it is NULL */

	const char *clock;			/* a time that the server has written between two of ours */
	TimestampTz clock_before;
	TimestampTz clock_after;

	const char *bad_subject;	/* why nothing can be published to it; NULL: it can */

	bool		asked_streams;
	char	   *stream;			/* the one that takes the subject; the first of several */
	Jsonb	   *streams;		/* the names of all that do */
	const char *stream_unknown; /* why there are no streams, or no config below */
	bool		is_elsewhere;	/* the stream, not in the account's own JetStream */
	bool		has_no_stream;	/* of its own that takes the subject, says the account's JetStream */
	NpFailure	stream_failure; /* of asking for stream_info; NP_FAULT_NONE: none */
	Jsonb	   *stream_info;
	Jsonb	   *config;			/* three parts of it */
	Jsonb	   *state;
	Jsonb	   *cluster;

	bool		asked_answers;
	const char *no_answers;		/* why they could not be asked for; NULL: they could, or need not be */
	NpAnswers  *answers;		/* who takes the subject; NULL: not known */
} NpExamination;

/* Finds something out, and may raise. */
typedef void (*NpExamine) (NpExamination *examination, void *argument);

typedef void (*NpCheck) (NpExamination *examination, NpFinding *finding);

/* check.c */
extern void np_find(NpFinding *finding, NpCheckStatus status, const char *format, ...) pg_attribute_printf(3, 4);
extern const char *np_count_of(int64 count, const char *noun);
extern void np_find_failure(NpFinding *finding, NpCheckStatus status, const NpFailure *failure);
extern bool np_check_attempt(NpExamine function, NpExamination *examination, void *argument, NpFailure *failure);
extern bool np_check_attempt_here(NpExamine function, NpExamination *examination, void *argument, NpFailure *failure);
extern void np_examine_connection(NpExamination *examination, void *unused);
extern void np_examine_subject(NpExamination *examination);
extern bool np_examine_api(NpExamination *examination, const char *api, const char *body, Jsonb **answer,
						   NpFailure *failure);
extern void np_examine_user(NpExamination *examination);
extern void np_examine_clock(NpExamination *examination, Jsonb *object, const char *field, TimestampTz before);
extern void np_examine_streams(NpExamination *examination);
extern void np_examine_stream_info(NpExamination *examination);
extern const char *np_advice_without_stream(const NpExamination *examination);

/* check_server.c */
extern void np_check_connection(NpExamination *examination, NpFinding *finding);
extern void np_check_server(NpExamination *examination, NpFinding *finding);
extern void np_check_jetstream(NpExamination *examination, NpFinding *finding);
extern void np_check_round_trip(NpExamination *examination, NpFinding *finding);
extern void np_check_permissions(NpExamination *examination, NpFinding *finding);

/* check_stream.c */
extern void np_check_subject(NpExamination *examination, NpFinding *finding);
extern void np_check_stream(NpExamination *examination, NpFinding *finding);
extern void np_check_storage(NpExamination *examination, NpFinding *finding);
extern void np_check_replicas(NpExamination *examination, NpFinding *finding);
extern void np_check_retention(NpExamination *examination, NpFinding *finding);
extern void np_check_no_ack(NpExamination *examination, NpFinding *finding);
extern void np_check_discard(NpExamination *examination, NpFinding *finding);
extern void np_check_duplicate_window(NpExamination *examination, NpFinding *finding);
extern void np_check_persist_mode(NpExamination *examination, NpFinding *finding);
extern void np_check_limits(NpExamination *examination, NpFinding *finding);

/* check_features.c */
extern void np_check_features(NpExamination *examination, NpFinding *finding);

/* check_probe.c */
extern void np_examine_answers(NpExamination *examination);
extern void np_check_answers(const NpExamination *examination, NpFinding *finding);

/* check_taker.c */
extern void np_examine_taker(NpExamination *examination);
extern bool np_is_taken(const NpExamination *examination);

/* check_wal.c */
extern void np_check_wal(NpExamination *examination, NpFinding *finding);

/* check_changes.c */
extern void np_check_changes(NpExamination *examination, NpFinding *finding);

/* check_settings.c */
extern void np_check_settings(NpExamination *examination, NpFinding *finding);

#endif							/* NP_CHECK_H */
