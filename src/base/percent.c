/*-------------------------------------------------------------------------
 *
 * percent.c
 *	  Values as parts of subjects, ids and headers: bytes as %XX.
 *
 * A value becomes one token of a subject, whatever is in it, and can be read
 * back: bytes that are not unreserved (RFC 3986, without the dot) are written
 * as %XX.  No value has a zero byte, and a percent sign of its own is %25, so
 * that "%00" is free for NULL and a lone "%" for the empty string.
 *
 * Plain C, no allocation.
 *
 *-------------------------------------------------------------------------
 */
#include "base/percent.h"

static bool
is_unreserved(unsigned char byte)
{
	return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') ||
		byte == '-' || byte == '_' || byte == '~';
}

static size_t
escape(unsigned char byte, char *out)
{
	static const char digits[] = "0123456789ABCDEF";

	out[0] = '%';
	out[1] = digits[byte >> 4];
	out[2] = digits[byte & 15];
	return 3;
}

/*
 * A value (UTF-8; absent is NULL) as one token of a subject or an id.  out has
 * room for NP_ENCODED_SIZE; returns the length.
 */
size_t
np_encode_token(NpSpan value, char *out)
{
	size_t		length = 0;

	if (value.data == NULL)
		return escape('\0', out);
	if (value.length == 0)
	{
		out[0] = '%';
		return 1;
	}
	for (size_t i = 0; i < value.length; i++)
	{
		unsigned char byte = (unsigned char) value.data[i];

		if (is_unreserved(byte))
			out[length++] = (char) byte;
		else
			length += escape(byte, out + length);
	}
	return length;
}

/*
 * A value (UTF-8) as a header's, by the rule of the CloudEvents binding for NATS
 * (3.1.3.2): blanks, double quotes, percent signs and all that is not
 * printable ASCII are escaped.  out as for np_encode_token.
 */
size_t
np_encode_header(NpSpan value, char *out)
{
	size_t		length = 0;

	for (size_t i = 0; i < value.length; i++)
	{
		unsigned char byte = (unsigned char) value.data[i];

		if (byte > ' ' && byte < 0x7f && byte != '"' && byte != '%')
			out[length++] = (char) byte;
		else
			length += escape(byte, out + length);
	}
	return length;
}
