/*
 * url_fuzz.c
 *		Whatever nats_publish.url is, its parts are inside of it, and mean what they say.
 *
 * The input: the setting
 */
#include "fuzz.h"

#include "base/list.h"
#include "base/server_url.h"

/* Each escape becomes one byte, and none of them ends the text. */
static bool
decode(NpSpan text)
{
	NpSpan		encoded = fuzz_copy(text);
	char	   *decoded = malloc(encoded.length + 1);
	bool		accepted = np_url_decode(encoded, decoded);

	if (accepted && fuzz_count(encoded, '\0') == 0)
		FUZZ_CHECK(strlen(decoded) == encoded.length - 2 * fuzz_count(encoded, '%'));
	fuzz_free(encoded);
	free(decoded);
	return accepted;
}

static bool
is_same(const NpServerUrl *a, const NpServerUrl *b)
{
	return a->tls == b->tls && a->port == b->port && fuzz_equal(a->user, b->user) &&
		fuzz_equal(a->password, b->password) &&
		(a->password.data == NULL) == (b->password.data == NULL) && fuzz_equal(a->host, b->host);
}

/* Put together from its parts, it is the same again. */
static void
check_again(const NpServerUrl *url)
{
	char		room[FUZZ_MAX_INPUT + 32];
	char		port[8];
	FuzzText	text = {room, 0, sizeof(room)};
	bool		brackets = fuzz_count(url->host, ':') > 0;
	NpServerUrl again;

	snprintf(port, sizeof(port), ":%d", url->port);
	fuzz_append_string(&text, url->tls ? "tls://" : "nats://");
	fuzz_append(&text, url->user);
	fuzz_append_string(&text, url->password.data != NULL ? ":" : "");
	fuzz_append(&text, url->password);
	fuzz_append_string(&text, url->user.data != NULL ? "@" : "");
	fuzz_append_string(&text, brackets ? "[" : "");
	fuzz_append(&text, url->host);
	fuzz_append_string(&text, brackets ? "]" : "");
	fuzz_append_string(&text, port);
	FUZZ_CHECK(np_url_parse(fuzz_span(&text), &again) == NULL);
	FUZZ_CHECK(is_same(&again, url));
}

/* Is it one? */
static bool
check_url(NpSpan item)
{
	NpSpan		text = fuzz_copy(item);
	NpServerUrl url;
	const char *problem = np_url_parse(text, &url);

	/* it can hold a password, so no problem quotes it */
	FUZZ_CHECK(problem == NULL || problem < text.data || problem >= text.data + text.length);
	FUZZ_CHECK(fuzz_is_inside(url.user, text) && fuzz_is_inside(url.password, text));
	FUZZ_CHECK(fuzz_is_inside(url.host, text));
	if (problem == NULL)
	{
		FUZZ_CHECK(url.port >= 1 && url.port <= 65535);
		FUZZ_CHECK(url.host.length >= 1 && url.host.length <= 255);
		FUZZ_CHECK(!fuzz_has_any(url.host, UNIT_TEXT(" /?#@[]\\\"'\r\n\t\0\x7f")));
		FUZZ_CHECK(url.user.data == NULL || url.user.length > 0);
		FUZZ_CHECK(url.password.data == NULL || url.user.data != NULL);
		FUZZ_CHECK(decode(url.user) && decode(url.password));
		check_again(&url);
	}
	fuzz_free(text);
	return problem == NULL;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char	   *setting = malloc(size + 1);
	const char *rest = setting;
	int			items = 0;
	int			first_bad = 0;
	int			position;
	NpSpan		whole;
	NpSpan		item;

	memcpy(setting, data, size);
	setting[size] = '\0';
	whole = (NpSpan) {setting, strlen(setting)};
	while (np_list_next(&rest, &item))
	{
		items++;
		FUZZ_CHECK(fuzz_is_inside(item, whole) && fuzz_count(item, ',') == 0);
		if (!check_url(item) && first_bad == 0)
			first_bad = items;
		(void) decode(item);
	}
	FUZZ_CHECK(items == (int) fuzz_count(whole, ',') + 1);
	FUZZ_CHECK((np_url_list_check(setting, &position) == NULL) == (first_bad == 0));
	FUZZ_CHECK(first_bad == 0 || position == first_bad);
	if (np_url_list_has_credentials(setting))
		FUZZ_CHECK(fuzz_count(whole, '@') > 0);
	free(setting);
	return 0;
}
