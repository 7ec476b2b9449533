/*-------------------------------------------------------------------------
 *
 * tls.h
 *	  TLS on a connection that libnats has made.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_TLS_H
#define NP_TLS_H

#include <sys/types.h>

#include "base/types.h"

/* So many bytes go into one record. */
#define NP_TLS_RECORD_SIZE	(16 * 1024)

typedef struct NpTls NpTls;		/* one side of a TLS connection: an SSL of OpenSSL's */

/* What libnats creates in this thread between begin and end. */
typedef struct NpTlsCapture
{
	char	   *host;			/* for SNI; not copied */
	void	   *context;		/* the SSL_CTX; NULL: none was created */
	NpTls	   *tls;			/* whose handshake has begun; NULL: none has */
	const char *alert;			/* why the server refuses us; NULL: it has not said */
} NpTlsCapture;

extern bool np_tls_capture_begin(NpTlsCapture *capture, char *host);
extern void np_tls_capture_end(void);
extern void np_tls_end_thread(void);
extern void np_tls_announce_host(NpTlsCapture *capture);
extern bool np_tls_trust_only(NpTlsCapture *capture, const char *ca_file, char *error, size_t error_size);

extern bool np_tls_prepare(void);
extern void np_tls_end(void);

extern void np_tls_hold(NpTls *tls);
extern bool np_tls_take_over(NpTls *tls, int fd);

extern ssize_t np_tls_read(NpTls *tls, char *buffer, size_t length);
extern ssize_t np_tls_write(NpTls *tls, const char *data, size_t length);
extern bool np_tls_has_pending(NpTls *tls);
extern NpTls *np_tls_like(NpTls *tls, int fd);
extern void np_tls_free(NpTls *tls);

#endif							/* NP_TLS_H */
