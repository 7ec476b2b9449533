/*-------------------------------------------------------------------------
 *
 * template.h
 *	  Texts with {names} in them, and values as parts of subjects and headers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_TEMPLATE_H
#define NP_TEMPLATE_H

#include "base/types.h"

typedef enum NpTemplatePartKind
{
	NP_PART_END,
	NP_PART_TEXT,				/* as it is */
	NP_PART_NAME,				/* {name} */
	NP_PART_QUOTED,				/* {"name"}: np_template_unquote gives the name */
	NP_PART_PROBLEM				/* text is a clause that follows "template" */
} NpTemplatePartKind;

typedef struct NpTemplatePart
{
	NpTemplatePartKind kind;
	NpSpan		text;
} NpTemplatePart;

/* The most that an encoded value of this length needs, in bytes. */
#define NP_ENCODED_SIZE(length)	(3 * (length) + 3)

/* Writes an encoded value to out, which has room for it; returns the length. */
typedef size_t (*NpEncoder) (NpSpan value, char *out);

extern NpTemplatePart np_template_next(NpSpan *rest);
extern size_t np_template_unquote(NpSpan quoted, char *name);
extern size_t np_encode_token(NpSpan value, char *out);
extern size_t np_encode_header(NpSpan value, char *out);

#endif							/* NP_TEMPLATE_H */
