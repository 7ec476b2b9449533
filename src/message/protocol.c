/*-------------------------------------------------------------------------
 *
 * protocol.c
 *	  The NATS client protocol: commands that we write, operations that the
 *	  server sends, and JetStream's PubAck.
 *
 * libnats makes the connection (handshake.c); the traffic on it is ours, because
 * only so every reply, error and 503 is seen with the message it belongs to,
 * and because a publish costs a copy into a buffer instead of a message
 * object with a hash table of headers.  The protocol is documented at
 * docs.nats.io/reference/reference-protocols/nats-protocol and, for headers,
 * in ADR-4.  Plain C, no allocation, and no trust in what the server sends.
 *
 *-------------------------------------------------------------------------
 */
#include "message/protocol.h"

#include <string.h>

/* No INFO, error or message line of a sane server is longer. */
#define MAX_LINE_LENGTH			(1024 * 1024)

/* With its headers. */
#define MAX_CONTENT_LENGTH		(NP_MAX_PAYLOAD_LENGTH + 64 * 1024)

#define SPAN(text) ((NpSpan) {(text), sizeof(text) - 1})

/* ---- Tokens ----------------------------------------------------------- */

static const char digits[] = "0123456789abcdefghijklmnopqrstuv";

/*
 * Write a token in base 32 without leading zeros; returns its length, at most
 * NP_TOKEN_LENGTH.  Not NUL-terminated.
 */
size_t
np_token_encode(uint64_t token, char *text)
{
	size_t		length = 1;

	for (uint64_t rest = token >> 5; rest != 0; rest >>= 5)
		length++;
	for (size_t i = length; i > 0; i--, token >>= 5)
		text[i - 1] = digits[token & 31];
	return length;
}

/* The reverse; false for anything that np_token_encode does not write. */
bool
np_token_decode(NpSpan text, uint64_t *token)
{
	uint64_t	value = 0;

	if (text.length == 0 || text.length > NP_TOKEN_LENGTH)
		return false;
	if (text.length == NP_TOKEN_LENGTH && text.data[0] > 'f')
		return false;			/* more than 64 bits */
	if (text.length > 1 && text.data[0] == '0')
		return false;
	for (size_t i = 0; i < text.length; i++)
	{
		char		digit = text.data[i];

		if (digit >= '0' && digit <= '9')
			value = value << 5 | (uint64_t) (digit - '0');
		else if (digit >= 'a' && digit <= 'v')
			value = value << 5 | (uint64_t) (digit - 'a' + 10);
		else
			return false;
	}
	*token = value;
	return true;
}

/* ---- What we write ---------------------------------------------------- */

static size_t
number_length(size_t number)
{
	size_t		length = 1;

	while (number >= 10)
		number /= 10, length++;
	return length;
}

static char *
put_span(char *to, NpSpan span)
{
	/* the data of an absent span is NULL, which memcpy may not get */
	if (span.length > 0)
		memcpy(to, span.data, span.length);
	return to + span.length;
}

static char *
put_number(char *to, size_t number)
{
	size_t		length = number_length(number);

	for (size_t i = length; i > 0; i--, number /= 10)
		to[i - 1] = (char) ('0' + number % 10);
	return to + length;
}

/*
 * The exact number of bytes that np_publication_encode writes.
 *
 * *control_line gets the length of the command's first line, which the server
 * limits (NP_MAX_CONTROL_LINE).
 */
size_t
np_publication_size(const NpPublication *publication, size_t *control_line)
{
	size_t		total = publication->headers.length + publication->payload.length;
	size_t		line = 4 + publication->subject.length + 1 + number_length(total) + 2;
	char		token[NP_TOKEN_LENGTH];

	if (publication->headers.data != NULL)
		line += 1 + number_length(publication->headers.length) + 1;
	if (publication->reply_prefix.data != NULL)
		line += publication->reply_prefix.length +
			np_token_encode(publication->token, token) + 1;
	*control_line = line;
	return line + total + 2;
}

/*
 * Write a PUB or HPUB command.  The buffer must hold np_publication_size();
 * what goes in must have passed subject.c.
 */
void
np_publication_encode(const NpPublication *publication, char *buffer)
{
	char	   *to = buffer;
	size_t		total = publication->headers.length + publication->payload.length;
	bool		headers = publication->headers.data != NULL;

	to = put_span(to, headers ? SPAN("HPUB ") : SPAN("PUB "));
	to = put_span(to, publication->subject);
	*to++ = ' ';
	if (publication->reply_prefix.data != NULL)
	{
		to = put_span(to, publication->reply_prefix);
		to += np_token_encode(publication->token, to);
		*to++ = ' ';
	}
	if (headers)
	{
		to = put_number(to, publication->headers.length);
		*to++ = ' ';
	}
	to = put_number(to, total);
	to = put_span(to, SPAN("\r\n"));
	to = put_span(to, publication->headers);
	to = put_span(to, publication->payload);
	put_span(to, SPAN("\r\n"));
}

/* ---- What the server sends -------------------------------------------- */

static bool
take_word(NpSpan *rest, NpSpan *word)
{
	while (rest->length > 0 && (*rest->data == ' ' || *rest->data == '\t'))
		rest->data++, rest->length--;
	word->data = rest->data;
	word->length = 0;
	while (rest->length > 0 && *rest->data != ' ' && *rest->data != '\t')
		rest->data++, rest->length--, word->length++;
	return word->length > 0;
}

static bool
word_to_number(NpSpan word, size_t *number)
{
	size_t		value = 0;

	if (word.length == 0 || word.length > 9)
		return false;
	for (size_t i = 0; i < word.length; i++)
	{
		if (word.data[i] < '0' || word.data[i] > '9')
			return false;
		value = value * 10 + (size_t) (word.data[i] - '0');
	}
	*number = value;
	return true;
}

/* The status in the first line of a header block: "NATS/1.0 503". */
static int
header_status(NpSpan headers)
{
	NpSpan		rest;
	NpSpan		word;
	const char *end;
	size_t		status;

	if (headers.length < 8 || memcmp(headers.data, "NATS/1.0", 8) != 0)
		return 0;
	rest.data = headers.data + 8;
	rest.length = headers.length - 8;
	end = memchr(rest.data, '\r', rest.length);
	if (end != NULL)
		rest.length = end - rest.data;
	if (!take_word(&rest, &word) || !word_to_number(word, &status))
		return 0;
	return (int) status;
}

/*
 * Parse the arguments of MSG or HMSG and find its body.
 *
 *	MSG <subject> <sid> [reply] <bytes>
 *	HMSG <subject> <sid> [reply] <header bytes> <total bytes>
 */
static NpParseResult
parse_message(NpSpan arguments, bool has_headers, const char *body, size_t available,
			  NpOperation *operation, size_t *body_length)
{
	NpSpan		words[6];
	int			count = 0;
	int			numbers = has_headers ? 2 : 1;
	size_t		total;
	size_t		header_length = 0;

	while (count < 6 && take_word(&arguments, &words[count]))
		count++;
	if (count != 2 + numbers && count != 3 + numbers)
		return NP_PARSE_INVALID;
	if (!word_to_number(words[count - 1], &total) || total > MAX_CONTENT_LENGTH)
		return NP_PARSE_INVALID;
	if (has_headers &&
		(!word_to_number(words[count - 2], &header_length) || header_length > total))
		return NP_PARSE_INVALID;

	*body_length = total + 2;
	if (available < *body_length)
		return NP_PARSE_INCOMPLETE;
	if (body[total] != '\r' || body[total + 1] != '\n')
		return NP_PARSE_INVALID;

	operation->kind = NP_OP_MESSAGE;
	operation->subject = words[0];
	if (has_headers)
	{
		operation->headers.data = body;
		operation->headers.length = header_length;
		operation->status = header_status(operation->headers);
	}
	operation->payload.data = body + header_length;
	operation->payload.length = total - header_length;
	return NP_PARSED;
}

static bool
line_is(NpSpan *line, const char *verb)
{
	size_t		length = strlen(verb);

	if (line->length < length || strncmp(line->data, verb, length) != 0)
		return false;
	if (line->length > length && line->data[length] != ' ' && line->data[length] != '\t')
		return false;
	line->data += length;
	line->length -= length;
	return true;
}

static NpSpan
trim(NpSpan text, const char *bytes)
{
	size_t		count = strlen(bytes);

	while (text.length > 0 && memchr(bytes, text.data[0], count) != NULL)
		text.data++, text.length--;
	while (text.length > 0 && memchr(bytes, text.data[text.length - 1], count) != NULL)
		text.length--;
	return text;
}

/*
 * Parse one operation at the start of the buffer.
 *
 * NP_PARSED: *operation is filled in and *consumed says how long it was.
 * NP_PARSE_INCOMPLETE: *needed is how long the buffer must at least become,
 * as far as is known.
 */
NpParseResult
np_operation_parse(const char *buffer, size_t length, NpOperation *operation,
				   size_t *consumed, size_t *needed)
{
	const char *end;
	NpSpan		line;
	NpParseResult result = NP_PARSED;
	size_t		body = 0;

	memset(operation, 0, sizeof(*operation));
	*needed = length + 1;
	if (length == 0)
		return NP_PARSE_INCOMPLETE;
	if (buffer[0] >= 0x14 && buffer[0] <= 0x17) /* RFC 8446 ContentType */
		return NP_PARSE_TLS;
	end = memchr(buffer, '\n', length);
	if (end == NULL)
		return length > MAX_LINE_LENGTH ? NP_PARSE_INVALID : NP_PARSE_INCOMPLETE;
	line.data = buffer;
	line.length = end - buffer;
	if (line.length > 0 && line.data[line.length - 1] == '\r')
		line.length--;
	end++;

	if (line_is(&line, "MSG") || line_is(&line, "HMSG"))
	{
		result = parse_message(line, buffer[0] == 'H', end, length - (end - buffer),
							   operation, &body);
		*needed = (end - buffer) + body;
	}
	else if (line_is(&line, "PING"))
		operation->kind = NP_OP_PING;
	else if (line_is(&line, "PONG"))
		operation->kind = NP_OP_PONG;
	else if (line_is(&line, "+OK"))
		operation->kind = NP_OP_OK;
	else if (line_is(&line, "INFO"))
	{
		operation->kind = NP_OP_INFO;
		operation->text = trim(line, " \t");
	}
	else if (line_is(&line, "-ERR"))
	{
		operation->kind = NP_OP_ERROR;
		operation->text = trim(trim(line, " \t"), "'");
	}
	else
		return NP_PARSE_INVALID;
	*consumed = (end - buffer) + body;
	return result;
}

/*
 * Take the next "Name: value" off a header block.
 *
 * *rest starts as the whole block; the status line is skipped, a malformed
 * line too.  False at the end.
 */
bool
np_header_next(NpSpan *rest, NpSpan *name, NpSpan *value)
{
	while (rest->length > 0)
	{
		const char *line = rest->data;
		const char *end = memchr(line, '\n', rest->length);
		size_t		length = end != NULL ? (size_t) (end - line) : rest->length;
		const char *colon = memchr(line, ':', length);

		rest->data += end != NULL ? length + 1 : length;
		rest->length -= end != NULL ? length + 1 : length;
		if (colon == NULL || colon == line ||
			(length >= 5 && memcmp(line, "NATS/", 5) == 0 && memchr(line, ' ', colon - line) != NULL))
			continue;
		name->data = line;
		name->length = colon - line;
		value->data = colon + 1;
		value->length = length - (colon - line) - 1;
		*value = trim(*value, " \t\r");
		return true;
	}
	return false;
}

/*
 * Skip to what is behind a key; false: it is not there.  It cannot occur
 * inside a string, in which a quote is escaped.
 */
static bool
skip_to(NpSpan *json, const char *key)
{
	size_t		length = strlen(key);

	for (size_t i = 0; i + length <= json->length; i++)
	{
		if (memcmp(json->data + i, key, length) != 0)
			continue;
		json->data += i + length;
		json->length -= i + length;
		return true;
	}
	return false;
}

/* The max_payload of an INFO that the server sends after a reload. */
bool
np_info_max_payload(NpSpan json, int64_t *bytes)
{
	int64_t		value = 0;

	if (!skip_to(&json, "\"max_payload\":"))
		return false;
	for (size_t i = 0; i < json.length && json.data[i] >= '0' && json.data[i] <= '9' &&
		 value <= MAX_CONTENT_LENGTH; i++)
		value = value * 10 + (json.data[i] - '0');
	/* -1 is no limit, and leaves what is known */
	if (value > 0)
		*bytes = value;
	return value > 0;
}

/* The first two numbers of the server's version in such an INFO. */
bool
np_info_version(NpSpan json, int *major, int *minor)
{
	NpSpan		word;
	size_t		numbers[2];

	if (!skip_to(&json, "\"version\":\""))
		return false;
	for (int i = 0; i < 2; i++)
	{
		const char *end = memchr(json.data, '.', json.length);

		if (end == NULL)
			return false;
		word = (NpSpan) {json.data, end - json.data};
		if (!word_to_number(word, &numbers[i]))
			return false;
		json.data += word.length + 1;
		json.length -= word.length + 1;
	}
	*major = (int) numbers[0];
	*minor = (int) numbers[1];
	return true;
}

/* The server's name in such an INFO; absent when it is not there, or not plainly. */
NpSpan
np_info_server_name(NpSpan json)
{
	const char *end;

	if (!skip_to(&json, "\"server_name\":\""))
		return (NpSpan) {NULL, 0};
	end = memchr(json.data, '"', json.length);
	if (end == NULL || memchr(json.data, '\\', end - json.data) != NULL)
		return (NpSpan) {NULL, 0};
	return (NpSpan) {json.data, end - json.data};
}

/*
 * The other servers of the cluster, in an INFO.  False: it does not announce
 * them; else np_info_next_url takes one after the other off *rest.
 */
bool
np_info_connect_urls(NpSpan json, NpSpan *rest)
{
	*rest = json;
	return skip_to(rest, "\"connect_urls\":[");
}

/* The next host:port, which has no escapes; false at the end. */
bool
np_info_next_url(NpSpan *rest, NpSpan *url)
{
	const char *end;

	if (rest->length > 0 && rest->data[0] == ',')
		rest->data++, rest->length--;
	if (rest->length == 0 || rest->data[0] != '"')
		return false;
	end = memchr(rest->data + 1, '"', rest->length - 1);
	if (end == NULL)
		return false;
	*url = (NpSpan) {rest->data + 1, end - rest->data - 1};
	rest->length -= end + 1 - rest->data;
	rest->data = end + 1;
	return true;
}

/* ---- PubAck ----------------------------------------------------------- */

static bool
take_literal(NpSpan *rest, const char *literal)
{
	size_t		length = strlen(literal);

	if (rest->length < length || memcmp(rest->data, literal, length) != 0)
		return false;
	rest->data += length;
	rest->length -= length;
	while (rest->length > 0 && *rest->data == ' ')
		rest->data++, rest->length--;
	return true;
}

/* A JSON string without escapes; stream and domain names need none. */
static bool
take_plain_string(NpSpan *rest, NpSpan *value)
{
	size_t		length = 1;

	if (rest->length == 0 || rest->data[0] != '"')
		return false;
	while (length < rest->length && rest->data[length] != '"')
	{
		if (rest->data[length] == '\\' || (unsigned char) rest->data[length] < ' ')
			return false;
		length++;
	}
	if (length == rest->length)
		return false;
	value->data = rest->data + 1;
	value->length = length - 1;
	rest->data += length;
	rest->length -= length;
	return take_literal(rest, "\"");
}

static bool
take_sequence(NpSpan *rest, uint64_t *value)
{
	const char *digits = rest->data;
	size_t		length = 0;

	*value = 0;
	while (length < rest->length && length < 19 &&
		   rest->data[length] >= '0' && rest->data[length] <= '9')
		*value = *value * 10 + (uint64_t) (rest->data[length++] - '0');
	rest->data += length;
	rest->length -= length;
	return length > 0 && *value <= INT64_MAX && (length == 1 || digits[0] != '0') && take_literal(rest, "");
}

/*
 * Parse a PubAck in the form that servers write it:
 *	{"stream":"S",["domain":"D",]"seq":1[,"duplicate":true|,"val":"8"]}
 * with or without blanks.
 *
 * False: it has another form (an error, more fields, escapes), which the
 * caller takes to a real JSON parser.  This one is for the path that every
 * message takes.
 */
bool
np_puback_parse(NpSpan json, NpPubAck *ack)
{
	NpSpan		rest = json;

	memset(ack, 0, sizeof(*ack));
	if (!take_literal(&rest, "{") || !take_literal(&rest, "\"stream\"") ||
		!take_literal(&rest, ":") || !take_plain_string(&rest, &ack->stream) ||
		ack->stream.length == 0 || !take_literal(&rest, ","))
		return false;
	if (take_literal(&rest, "\"domain\"") &&
		(!take_literal(&rest, ":") || !take_plain_string(&rest, &ack->domain) ||
		 !take_literal(&rest, ",")))
		return false;
	if (!take_literal(&rest, "\"seq\"") || !take_literal(&rest, ":") ||
		!take_sequence(&rest, &ack->sequence))
		return false;
	if (!take_literal(&rest, ","))
		return take_literal(&rest, "}") && rest.length == 0;
	if (take_literal(&rest, "\"val\""))
		return take_literal(&rest, ":") && take_plain_string(&rest, &ack->value) && take_literal(&rest, "}") && rest.length == 0;
	ack->duplicate = true;
	return take_literal(&rest, "\"duplicate\"") && take_literal(&rest, ":") && take_literal(&rest, "true") &&
		take_literal(&rest, "}") && rest.length == 0;
}
