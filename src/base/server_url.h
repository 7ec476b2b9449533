/*-------------------------------------------------------------------------
 *
 * server_url.h
 *	  NATS server URLs and lists of them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_SERVER_URL_H
#define NP_SERVER_URL_H

#include "base/types.h"

#define NP_DEFAULT_PORT		4222

/* All spans point into the text that was parsed. */
typedef struct NpServerUrl
{
	bool		tls;			/* tls:// rather than nats:// */
	NpSpan		user;			/* absent: no credentials; still percent-encoded */
	NpSpan		password;		/* absent: user is a token */
	NpSpan		host;			/* an IPv6 address without its brackets */
	int			port;
} NpServerUrl;

extern const char *np_url_list_check(const char *list, int *position);
extern bool np_url_list_has_credentials(const char *list);
extern const char *np_url_parse(NpSpan text, NpServerUrl *url);
extern bool np_url_decode(NpSpan encoded, char *decoded);
extern bool np_url_is_address(NpSpan host);

#endif							/* NP_SERVER_URL_H */
