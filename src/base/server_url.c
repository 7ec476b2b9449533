/*-------------------------------------------------------------------------
 *
 * server_url.c
 *	  NATS server URLs and comma-separated lists of them.
 *
 * We take URLs apart ourselves: libnats before 3.9 does not decode percent
 * signs in credentials, and a URL must never be shown with its credentials.
 * Plain C, no allocation.
 *
 *-------------------------------------------------------------------------
 */
#include "base/list.h"
#include "base/server_url.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>

static bool
take_prefix(NpSpan *text, const char *prefix)
{
	size_t		length = strlen(prefix);

	if (text->length < length || strncmp(text->data, prefix, length) != 0)
		return false;
	text->data += length;
	text->length -= length;
	return true;
}

/* Split text at byte; both sides are without it.  False: it is not there. */
static bool
split(NpSpan text, const char *at, NpSpan *before, NpSpan *after)
{
	if (at == NULL)
		return false;
	before->data = text.data;
	before->length = at - text.data;
	after->data = at + 1;
	after->length = text.length - before->length - 1;
	return true;
}

static const char *
find_last(NpSpan text, char byte)
{
	for (size_t i = text.length; i > 0; i--)
		if (text.data[i - 1] == byte)
			return text.data + i - 1;
	return NULL;
}

static const char *
parse_port(NpSpan text, int *port)
{
	int			value = 0;

	if (text.length == 0 || text.length > 5)
		return "the port is not a number from 1 to 65535";
	for (size_t i = 0; i < text.length; i++)
	{
		if (!isdigit((unsigned char) text.data[i]))
			return "the port is not a number from 1 to 65535";
		value = value * 10 + (text.data[i] - '0');
	}
	if (value < 1 || value > 65535)
		return "the port is not a number from 1 to 65535";
	*port = value;
	return NULL;
}

static const char *
parse_host_and_port(NpSpan text, NpServerUrl *url)
{
	NpSpan		port;
	bool		in_brackets = text.length > 0 && text.data[0] == '[';

	url->port = NP_DEFAULT_PORT;
	if (take_prefix(&text, "["))
	{
		if (!split(text, memchr(text.data, ']', text.length), &url->host, &port))
			return "the IPv6 address has no closing bracket";
		if (port.length > 0 && !take_prefix(&port, ":"))
			return "something other than a port follows the address";
		if (port.length == 0 && port.data[-1] != ':')
			port.data = NULL;
	}
	else if (!split(text, find_last(text, ':'), &url->host, &port))
	{
		url->host = text;
		port.data = NULL;
	}
	if (url->host.length == 0)
		return "the host is missing";
	if (url->host.length > 255)
		return "the host name is too long";
	for (size_t i = 0; i < url->host.length; i++)
	{
		unsigned char byte = (unsigned char) url->host.data[i];

		if (byte <= ' ' || byte == 0x7f || strchr("/?#@[]\\\"'", byte) != NULL ||
			(byte == ':' && !in_brackets))
			return "the host has an invalid character";
	}
	return port.data == NULL ? NULL : parse_port(port, &url->port);
}

/*
 * Parse one URL: [nats://|tls://][user[:password]@]host[:port][/]
 *
 * Returns NULL, or what is wrong with it as a clause that does not quote the
 * text (it can hold a password).
 */
const char *
np_url_parse(NpSpan text, NpServerUrl *url)
{
	NpSpan		credentials;

	memset(url, 0, sizeof(*url));
	if (text.length == 0)
		return "it is empty";
	if (take_prefix(&text, "tls://"))
		url->tls = true;
	else if (!take_prefix(&text, "nats://") &&
			 (text.length > 0 && memchr(text.data, '/', text.length - 1) != NULL))
		return "it does not begin with nats:// or tls://, or has a path";
	if (text.length > 0 && text.data[text.length - 1] == '/')
		text.length--;

	if (split(text, find_last(text, '@'), &credentials, &text))
	{
		char		decoded[1024];

		if (!split(credentials, memchr(credentials.data, ':', credentials.length),
				   &url->user, &url->password))
			url->user = credentials;
		if (url->user.length == 0)
			return "the user name is empty";
		if (url->user.length >= sizeof(decoded) || url->password.length >= sizeof(decoded))
			return "the credentials are too long";
		if (!np_url_decode(url->user, decoded) ||
			(url->password.data != NULL && !np_url_decode(url->password, decoded)))
			return "the credentials have an invalid percent sign";
	}
	return parse_host_and_port(text, url);
}

/*
 * Check each URL of a list.  NULL, or what np_url_parse says of the first bad
 * one; *position becomes its number, counted from 1.
 */
const char *
np_url_list_check(const char *list, int *position)
{
	NpSpan		item;

	for (*position = 1; np_list_next(&list, &item); (*position)++)
	{
		NpServerUrl url;
		const char *problem = np_url_parse(item, &url);

		if (problem != NULL)
			return problem;
	}
	return NULL;
}

/* Of a list that was checked. */
bool
np_url_list_has_credentials(const char *list)
{
	NpSpan		item;

	while (np_list_next(&list, &item))
	{
		NpServerUrl url;

		if (np_url_parse(item, &url) == NULL && url.user.data != NULL)
			return true;
	}
	return false;
}

static int
hex_value(char digit)
{
	if (digit >= '0' && digit <= '9')
		return digit - '0';
	if (digit >= 'a' && digit <= 'f')
		return digit - 'a' + 10;
	if (digit >= 'A' && digit <= 'F')
		return digit - 'A' + 10;
	return -1;
}

/*
 * Decode %XX.  decoded needs encoded.length + 1 bytes and is NUL-terminated.
 *
 * False: a percent sign without two hexadecimal digits, or %00.
 */
bool
np_url_decode(NpSpan encoded, char *decoded)
{
	for (size_t i = 0; i < encoded.length; i++)
	{
		char		byte = encoded.data[i];

		if (byte == '%')
		{
			int			high = i + 1 < encoded.length ? hex_value(encoded.data[i + 1]) : -1;
			int			low = i + 2 < encoded.length ? hex_value(encoded.data[i + 2]) : -1;

			if (high < 0 || low < 0 || high + low == 0)
				return false;
			byte = (char) (high * 16 + low);
			i += 2;
		}
		*decoded++ = byte;
	}
	*decoded = '\0';
	return true;
}

/* Is the host an IP address rather than a name? */
bool
np_url_is_address(NpSpan host)
{
	char		text[INET6_ADDRSTRLEN];
	unsigned char address[sizeof(struct in6_addr)];

	if (host.length >= sizeof(text))
		return false;
	memcpy(text, host.data, host.length);
	text[host.length] = '\0';
	return inet_pton(AF_INET, text, address) == 1 || inet_pton(AF_INET6, text, address) == 1;
}
