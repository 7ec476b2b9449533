/*-------------------------------------------------------------------------
 *
 * annotations.h
 *	  Headers that all messages of a transaction or session have.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_ANNOTATIONS_H
#define NP_ANNOTATIONS_H

#include "utils/jsonb.h"

#include "base/types.h"

#define NP_ANNOTATIONS_SETTING	"nats_publish.annotations"

extern void np_annotations_define(void);
extern void np_annotations_check(const char *text);
extern Jsonb *np_annotations_parse(NpSpan text);
extern Jsonb *np_annotations_current(void);

#endif							/* NP_ANNOTATIONS_H */
