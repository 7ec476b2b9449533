/*-------------------------------------------------------------------------
 *
 * subject.h
 *	  What may be a NATS subject, a header name, a header value.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SUBJECT_H
#define NP_SUBJECT_H

#include "base/types.h"

/* Leaves room for a subject of NP_MAX_SUBJECT_LENGTH in the control line. */
#define NP_MAX_INBOX_PREFIX_LENGTH	32

/* design: longer subjects leave no room for the rest of a control line */
#define NP_MAX_SUBJECT_LENGTH	4000

/* nats-server const.go MAX_CONTROL_LINE_SIZE: a longer one ends the connection */
#define NP_MAX_CONTROL_LINE		4096

typedef enum NpTextProblem
{
	NP_TEXT_OK,
	NP_TEXT_EMPTY,
	NP_TEXT_TOO_LONG,
	NP_TEXT_BAD_BYTE,			/* at *position */
	NP_TEXT_EMPTY_TOKEN,		/* at *position */
	NP_TEXT_WILDCARD			/* at *position */
} NpTextProblem;

extern NpTextProblem np_subject_check(NpSpan subject, size_t *position);
extern bool np_is_stream_name(NpSpan name);
extern bool np_subject_is_reserved(NpSpan subject, NpSpan inbox_prefix);
extern const char *np_inbox_prefix_problem(const char *prefix);
extern const char *np_pattern_problem(NpSpan pattern);
extern const char *np_pattern_list_problem(const char *list, int *position);
extern bool np_pattern_matches(NpSpan pattern, NpSpan subject);
extern bool np_pattern_list_matches(const char *list, NpSpan subject);
extern NpTextProblem np_header_name_check(NpSpan name, size_t *position);
extern NpTextProblem np_header_value_check(NpSpan value, size_t *position);

#endif							/* NP_SUBJECT_H */
