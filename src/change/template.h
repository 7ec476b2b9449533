/*-------------------------------------------------------------------------
 *
 * template.h
 *	  Texts with {names} in them.
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

extern NpTemplatePart np_template_next(NpSpan *rest);
extern size_t np_template_unquote(NpSpan quoted, char *name);

#endif							/* NP_TEMPLATE_H */
