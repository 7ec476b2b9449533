/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  TLS on a connection that libnats has made.
 *
 * The library makes the TLS connection and verifies the server's certificate;
 * the traffic on it is ours, as it is without TLS.  It does not give its SSL
 * away, but OpenSSL reports it: a callback on the making of an SSL_CTX shows
 * the context, on which a second one can be set before the first handshake,
 * and that one shows the SSL.  Both look at a variable of the thread, and so
 * see nothing of what PostgreSQL or libpq do with OpenSSL.
 *
 * The context in hand, two things are mended: with a CA file the library
 * trusts the system's authorities too, and before 3.9 it sends no SNI.
 *
 * Reading and writing never block, so a record that arrives in part keeps
 * nobody waiting: the library's own read would wait for its rest.
 *
 * Plain C; runs in the helper thread of connect_attempt.c too.
 *
 *-------------------------------------------------------------------------
 */
#include "base/server_url.h"
#include "libnats/tls.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

static __thread NpTlsCapture *capturing;	/* NULL: nobody is interested */
static atomic_bool library_uses_tls;	/* has ever created a context */

/* ---- Seeing what the library makes ---------------------------------------- */

/* CRYPTO_EX_new.  The context is not yet complete: only its address is taken. */
static void
on_new_context(void *parent, void *data, CRYPTO_EX_DATA *all, int index, long argument, void *pointer)
{
	(void) data;
	(void) all;
	(void) index;
	(void) argument;
	(void) pointer;
	if (capturing == NULL)
		return;
	capturing->context = parent;
	library_uses_tls = true;
}

/* Since TLS 1.3 what the server thinks of our certificate comes after the handshake. */
static const char *
describe_alert(int alert)
{
	return ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, 0, SSL_AD_REASON_OFFSET + (alert & 0xff)));
}

static void
on_event(const SSL *ssl, int where, int result)
{
	SSL		   *own = (SSL *) ssl;

	if (capturing == NULL)
		return;
	if (where == SSL_CB_READ_ALERT && (result >> 8) == SSL3_AL_FATAL)
		capturing->alert = describe_alert(result);
	if ((where & SSL_CB_HANDSHAKE_START) == 0)
		return;
	capturing->tls = (NpTls *) own;
	/* RFC 6066 §3: no addresses in it */
	SSL_set_tlsext_host_name(own, np_url_is_address((NpSpan) {capturing->host, strlen(capturing->host)}) ? NULL : capturing->host);
}

/*
 * From here on it is recorded what is made in this thread, until
 * np_tls_capture_end.  False: out of memory.
 */
bool
np_tls_capture_begin(NpTlsCapture *capture, char *host)
{
	static int	index = -1;

	/* helper threads run one at a time, but for those left behind: at worst a second index */
	if (index < 0)
		index = SSL_CTX_get_ex_new_index(0, NULL, on_new_context, NULL, NULL);
	*capture = (NpTlsCapture) {.host = host};
	capturing = capture;
	return index >= 0;
}

void
np_tls_capture_end(void)
{
	capturing = NULL;
}

/* What OpenSSL keeps for this thread is freed: it does nothing with TLS any more. */
void
np_tls_end_thread(void)
{
	OPENSSL_thread_stop();
}

/* ---- The process ------------------------------------------------------------ */

/*
 * OpenSSL registers its handler of atexit: it runs behind those that are
 * registered after this.  To load the configuration is no more than libnats
 * lets it do when it makes its first random number; without an option it
 * registers nothing.  False: out of memory.
 */
bool
np_tls_prepare(void)
{
	return OPENSSL_init_crypto(OPENSSL_INIT_LOAD_CONFIG, NULL) == 1;
}

static void
free_method(SSL_COMP *method)
{
	OPENSSL_free(method);
}

/*
 * To be called at exit, before the library's own handler: before libnats 3.11
 * that frees OpenSSL's list of compression methods, and if it does so before
 * OpenSSL cleans up, OpenSSL frees it once more (nats.c #904).  So there is none.
 */
void
np_tls_end(void)
{
	STACK_OF(SSL_COMP) * methods;

	if (!library_uses_tls)
		return;
	methods = SSL_COMP_get_compression_methods();
	(void) SSL_COMP_set0_compression_methods(NULL);
	sk_SSL_COMP_pop_free(methods, free_method);
}

/* ---- What is mended ------------------------------------------------------------ */

/*
 * Give the host's name in the handshake, which is then seen.  There is no
 * second handshake: the server's certificate is verified when the library
 * still looks at it, and never again.  Nor does the kernel encrypt, though
 * openssl.cnf may say so: np_tls_take_over gives OpenSSL the socket anew,
 * and it then does not know that the kernel does.
 */
void
np_tls_announce_host(NpTlsCapture *capture)
{
	SSL_CTX_set_info_callback(capture->context, on_event);
	SSL_CTX_set_options(capture->context, SSL_OP_NO_RENEGOTIATION);
#ifdef SSL_OP_ENABLE_KTLS
	SSL_CTX_clear_options(capture->context, SSL_OP_ENABLE_KTLS);
#endif
}

/* The newest error of OpenSSL in this thread, in words. */
static void
describe_error(char *error, size_t error_size)
{
	const char *reason = ERR_reason_error_string(ERR_peek_last_error());

	/* an errno has no reason string in OpenSSL 3 */
	if (reason == NULL && ERR_SYSTEM_ERROR(ERR_peek_last_error()))
		reason = strerror(ERR_GET_REASON(ERR_peek_last_error()));
	snprintf(error, error_size, "%s", reason != NULL ? reason : "unknown error");
	ERR_clear_error();
}

/*
 * Trust the authorities of the file and no others.  False: why it can't be
 * read is in error.
 */
bool
np_tls_trust_only(NpTlsCapture *capture, const char *ca_file, char *error, size_t error_size)
{
	X509_STORE *store = X509_STORE_new();

	ERR_clear_error();
	if (store == NULL || X509_STORE_load_locations(store, ca_file, NULL) != 1)
	{
		describe_error(error, error_size);
		X509_STORE_free(store);
		return false;
	}
	SSL_CTX_set_cert_store(capture->context, store);
	return true;
}

/* ---- Taking it over --------------------------------------------------------- */

/*
 * Keep the TLS of a connection that the library is about to close.  It is
 * told that both sides have ended it, so nothing is read or written.
 */
void
np_tls_hold(NpTls *tls)
{
	SSL		   *ssl = (SSL *) tls;

	SSL_up_ref(ssl);
	SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
}

/* SSL_verify_cb: what OpenSSL finds is what counts. */
static int
keep_verdict(int verdict, X509_STORE_CTX *store)
{
	(void) store;
	return verdict;
}

/*
 * The library has closed its connection: the TLS is the caller's to
 * np_tls_free, on this descriptor of the same socket, and ready for reading and
 * writing that never block; the socket must not either.  False: out of memory.
 */
bool
np_tls_take_over(NpTls *tls, int fd)
{
	SSL		   *ssl = (SSL *) tls;

	SSL_set_shutdown(ssl, 0);
	/* instead of the library's, which looks at its connection; for NULL OpenSSL would keep that */
	SSL_set_verify(ssl, SSL_get_verify_mode(ssl), keep_verdict);
	SSL_set_ex_data(ssl, 0, NULL);
	SSL_set_mode(ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	return SSL_set_fd(ssl, fd) == 1;
}

/* ---- Traffic ----------------------------------------------------------------- */

/* What recv and send would return and set errno to. */
static ssize_t
result_of(NpTls *tls, int result)
{
	int			saved_errno = errno;

	if (result > 0)
		return result;
	switch (SSL_get_error((SSL *) tls, result))
	{
		case SSL_ERROR_WANT_READ:
		case SSL_ERROR_WANT_WRITE:
			errno = EAGAIN;
			return -1;
		case SSL_ERROR_ZERO_RETURN:
			return 0;
		case SSL_ERROR_SYSCALL:
			errno = saved_errno;
			return saved_errno == 0 ? 0 : -1;
		default:
			/* OpenSSL 3 takes an end of file without notice for this */
			if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
			{
				ERR_clear_error();
				return 0;
			}
			ERR_clear_error();
			errno = EPROTO;
			return -1;
	}
}

static ssize_t
read_record(NpTls *tls, char *buffer, size_t length)
{
	ERR_clear_error();
	errno = 0;
	return result_of(tls, SSL_read((SSL *) tls, buffer, length > INT_MAX ? INT_MAX : (int) length));
}

/*
 * As recv on a socket that does not block; a damaged record is EPROTO.  OpenSSL
 * gives one record, whatever is behind it: less than length is all there is.
 */
ssize_t
np_tls_read(NpTls *tls, char *buffer, size_t length)
{
	ssize_t		count = read_record(tls, buffer, length);
	size_t		total = 0;

	while (count > 0)
	{
		total += (size_t) count;
		count = total < length ? read_record(tls, buffer + total, length - total) : 0;
	}
	/* an end or an error behind it comes again */
	return total > 0 ? (ssize_t) total : count;
}

/*
 * As send on a socket that does not block, of one record: no more than
 * NP_TLS_RECORD_SIZE bytes.
 *
 * On EAGAIN OpenSSL may have made the record, and sent a part of it.  The next
 * write must be of the same bytes, and no more of them: with a second record
 * that is not taken, OpenSSL would not tell that the first has left.  So the
 * server can read no byte that was not returned here as written.
 */
ssize_t
np_tls_write(NpTls *tls, const char *data, size_t length)
{
	ERR_clear_error();
	errno = 0;
	return result_of(tls, SSL_write((SSL *) tls, data, (int) length));
}

/* Is there something to read that the socket does not show any more? */
bool
np_tls_has_pending(NpTls *tls)
{
	return SSL_pending((SSL *) tls) > 0;
}

/* ---- A second connection -------------------------------------------------------- */

/*
 * A TLS client on another socket that trusts, and is, what this one does and
 * is; np_tls_read makes its handshake.  NULL: out of memory.  The caller's to
 * np_tls_free.
 */
NpTls *
np_tls_like(NpTls *tls, int fd)
{
	SSL		   *model = (SSL *) tls;
	SSL		   *ssl = SSL_new(SSL_get_SSL_CTX(model));

	if (ssl == NULL)
		return NULL;
	SSL_set_connect_state(ssl);
	SSL_set_verify(ssl, SSL_get_verify_mode(model), NULL);
	SSL_set_tlsext_host_name(ssl, SSL_get_servername(model, TLSEXT_NAMETYPE_host_name));
	if (X509_VERIFY_PARAM_set1(SSL_get0_param(ssl), SSL_get0_param(model)) == 1 && SSL_set_fd(ssl, fd) == 1)
		return (NpTls *) ssl;
	SSL_free(ssl);
	return NULL;
}

/* Does not close the socket. */
void
np_tls_free(NpTls *tls)
{
	SSL_free((SSL *) tls);
}
