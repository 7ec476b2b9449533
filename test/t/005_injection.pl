
# Whatever SQL gives, nothing reaches the wire but the messages that were meant: a raw subscriber to everything
# sees each byte that came.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use NatsClient;
use PsqlSession;
use PublishTest;

my $CRLF = "\r\n";

my ($nats, $admin) = nats_with_stream('OK', ['ok.>']);
$admin->close;
my $node = publishing_node('main',
	'nats_publish.url' => $nats->url,
	'nats_publish.auto_msg_id' => 'off',
	'nats_publish.ack_timeout' => '30s');
my $session = PsqlSession->new($node);
$session->value(q(SELECT nats_publish('ok.first', '')));
my $watcher = NatsClient->new(url => $nats->url);
$watcher->subscribe('>');

# What has arrived since the last time, but for acknowledgments and the server's own events.
sub arrived
{
	$session->value(q(SELECT nats_publish('ok.sentinel', 'end')));
	my @messages;
	while (my $message = $watcher->next_message)
	{
		next if $message->{subject} =~ /^(_INBOX\.|\$JS\.EVENT\.|\$SYS\.)/ && !defined $message->{reply};
		return @messages if $message->{subject} eq 'ok.sentinel';
		push @messages, $message;
	}
	die 'the sentinel did not arrive';
}

sub nothing_arrived
{
	my ($what) = @_;
	is(join(' ', map { "$_->{subject}=$_->{payload}" } arrived()), '', "nothing arrived: $what");
	return;
}

sub literal { return "'" . ($_[0] =~ s/'/''/gr) . "'"; }

# Refused subjects, as SQL literals

my %subjects = (
	q(E'ok.a 0\r\n\r\nPUB evil.x 5\r\nhello\r\nPUB ok.b') => 'a forged message',
	q(E'ok.a\r\nPUB evil.x 0\r\n\r\n') => 'another one',
	q('ok.c evil.reply') => 'a forged reply subject',
	q(E'A: 1\r\nNats-Msg-Id') => 'what was a header name',
	q('ok.*') => 'a wildcard',
	q('ok.>') => 'a full wildcard',
	q('*') => 'a lone wildcard',
	q('>') => 'a lone full wildcard',
	q('ok.*.x') => 'a wildcard in the middle',
	q('ok..q') => 'an empty token',
	q('ok.e.') => 'an empty last token',
	q('.ok') => 'an empty first token',
	q('.') => 'a dot',
	q('') => 'an empty subject',
	q(E'ok.a\r') => 'CR',
	q(E'ok.a\n') => 'LF',
	q(E'ok.\r\na') => 'CR LF',
	q(E'ok.\ta') => 'a tab',
	q('ok. a') => 'a space',
	q(' ok.a') => 'a space in front',
	q('ok.a ') => 'a space behind',
	q(E'ok.a\x7f') => 'DEL',
	q(E'ok.a\x01') => 'a control character',
	q(E'ok.a\x1b[0m') => 'an escape sequence',
	q('$JS.API.STREAM.DELETE.OK') => 'the API',
	q('$JS') => 'its root',
	q('$JS.ACK.OK.c.1.2.3.4.5') => 'an acknowledgment',
	q('$SYS.REQ.SERVER.PING') => 'the system',
	q('$SYS') => 'its root',
	q('_INBOX.abc') => 'an inbox',
	q('_INBOX') => 'the inboxes',
	q(repeat('x', 5000)) => '5,000 bytes',
	q(repeat('x', 4001)) => '4,001 bytes',
	q('ok.' || repeat('ä', 2000)) => '4,003 bytes of fewer characters');
foreach my $subject (sort keys %subjects)
{
	foreach my $call ('nats_publish(%s, \'x\')', 'nats_publish(%s, \'{}\'::jsonb)', 'nats_publish(%s, \'\x00\'::bytea)',
		'nats_publish_async(%s, \'x\')', 'nats_publish_async(%s, \'x\', critical => false)')
	{
		my $sql = 'SELECT ' . sprintf($call, $subject);
		my $sqlstate = $session->sqlstate($sql);
		is($sqlstate, '22023', "$subjects{$subject}: $sql") if $sqlstate ne '22023' || $call =~ /'x'\)$/;
	}
}
is($session->sqlstate(q(SELECT nats_publish(NULL, 'x'))), '22004', 'NULL as subject');
isnt($session->sqlstate(q(SELECT nats_publish('ok.' || chr(0), 'x'))), '', 'NUL in a subject is refused by PostgreSQL');
nothing_arrived('bad subjects');
my $error = $session->error(q(SELECT nats_publish(E'ok.a 0\r\n\r\nPUB evil.x 5\r\nhello\r\nPUB ok.b', 'x')));
like($error, qr/0x20 at position 5/, 'the error names the byte and its place');

# With another inbox prefix, it is that which is reserved
$session->value(q(SET nats_publish.inbox_prefix = '_MY.inbox'));
is($session->sqlstate(q(SELECT nats_publish('_MY.inbox.x', 'x'))), '22023', 'the inbox prefix of the setting');
is($session->sqlstate(q(SELECT nats_publish('_MY.inbox', 'x'))), '22023', 'and itself');
$session->value('RESET nats_publish.inbox_prefix');
foreach my $prefix (q(E'_INBOX\r\nPUB evil.x 0\r\n\r\n'), q('_INBOX x'), q('a.*'), q('a.>'), q('a..b'), q('a.'), q(''), q(E'a\tb'), q(repeat('x', 1000)))
{
	is($session->sqlstate("SELECT set_config('nats_publish.inbox_prefix', $prefix, false)"), '22023', "inbox_prefix $prefix");
}
foreach my $url (q(E'nats://127.0.0.1:4222\r\nPUB evil.x 0\r\n'), q('nats://a b:1'), q('http://127.0.0.1'), q('nats://h:0'),
	q('nats://h:70000'), q('nats://h:x'), q('nats://u:p%zz@h'), q('nats://'), q('nats://u:p@'), q('nats://h,,nats://i'), q('nats://[::1'),
	q('nats://h/path'), q('nats://u%00:p@h'))
{
	my $error = $session->error("SELECT set_config('nats_publish.url', $url, false)");
	like($error, qr/^ERROR:  22023: /, "url $url");
	unlike($error =~ s/^LINE.*//msr =~ s/^ERROR.*?invalid value for parameter.*$//mr, qr/%zz/, 'the detail does not show a password');
}
nothing_arrived('bad settings');

# Refused headers

my %headers = (
	q({"A: 1\r\nNats-Msg-Id": "forged"}) => 'a forged header',
	q({"A\r\n\r\nPUB evil.x 0\r\n\r\n": "x"}) => 'a forged message in a name',
	q({"A\r": "x"}) => 'CR in a name',
	q({"A\n": "x"}) => 'LF in a name',
	q({"A B": "x"}) => 'a space in a name',
	q({"A\t": "x"}) => 'a tab in a name',
	q({"A:": "x"}) => 'a colon in a name',
	q({"": "x"}) => 'an empty name',
	q({"\u007f": "x"}) => 'DEL in a name',
	q({"\u0001": "x"}) => 'a control character in a name',
	q({"Ä": "x"}) => 'a name that is not ASCII',
	q({"A": "1\r\nNats-Msg-Id: forged"}) => 'a forged header in a value',
	q({"A": "1\r\n\r\nPUB evil.x 0\r\n\r\n"}) => 'a forged message in a value',
	q({"A": "x\r"}) => 'CR in a value',
	q({"A": "x\n"}) => 'LF in a value',
	q({"A": ["x", "y\n"]}) => 'LF in one of many values',
	q({"K": null}) => 'null',
	q({"K": [null]}) => 'null in an array',
	q({"K": {"a": 1}}) => 'an object',
	q({"K": [["a"]]}) => 'an array in an array',
	q({"K": [{"a": 1}]}) => 'an object in an array',
	q([]) => 'no object',
	q("x") => 'a string',
	q(null) => 'JSON null',
	q({"Nats-Batch-Id": "x"}) => 'Nats-Batch-Id',
	q({"nats-batch-sequence": "1"}) => 'Nats-Batch-Sequence',
	q({"NATS-BATCH-COMMIT": "1"}) => 'Nats-Batch-Commit',
	q({"Nats-Batch-Whatever": "1"}) => 'any Nats-Batch-',
	q({"nats-Expected-Last-Msg-ID": "x"}) => 'Nats-Expected-Last-Msg-Id',
	q({"Nats-Stream-Source": "x"}) => 'Nats-Stream-Source',
	q({"Nats-Msg-Id": ["a", "b"]}) => 'two ids',
	q({"Nats-Msg-Id": "a", "nats-msg-id": "b"}) => 'two ids in different case',
	q({"Nats-Msg-Id": "a\r\nX: y"}) => 'CR LF in an id');
foreach my $headers (sort keys %headers)
{
	foreach my $function ('nats_publish', 'nats_publish_async')
	{
		is($session->sqlstate("SELECT $function('ok.h', 'x', headers => " . literal($headers) . '::jsonb)'), '22023',
			"$headers{$headers} in the headers of $function()");
	}
}
isnt($session->sqlstate(q(SELECT nats_publish('ok.h', 'x', headers => '{"A": "\u0000"}'))), '', 'NUL is refused by PostgreSQL');
isnt($session->sqlstate(q(SELECT nats_publish('ok.h', 'x', headers => '{"\u0000": "a"}'))), '', 'in a name too');
foreach my $argument (
	q(msg_id => E'a\r\nX: y'), q(msg_id => E'a\n'), q(msg_id => E'\r\n\r\nPUB evil.x 0\r\n\r\n'), q(msg_id => ''),
	q(expect_stream => E'OK\r\nX: y'), q(expect_stream => ''), q(expect_last_seq => -1), q(expect_last_subject_seq => -1),
	q(ttl => '0 s'), q(ttl => '-1 s'), q(msg_id => 'a', headers => '{"nats-msg-id": "b"}'),
	q(expect_stream => 'OK', headers => '{"Nats-Expected-Stream": "OK"}'),
	q(expect_last_seq => 1, headers => '{"nats-expected-last-sequence": "1"}'),
	q(ttl => '1 h', headers => '{"Nats-TTL": "1"}'))
{
	is($session->sqlstate("SELECT nats_publish('ok.h', 'x', $argument)"), '22023', $argument);
}
is($session->sqlstate(q(SELECT nats_publish('ok.h', 'x', headers => jsonb_build_object('A', repeat('x', 70000))))), '54000',
	'headers over 64 kB');
nothing_arrived('bad headers');

# The names of API requests become subjects

my $evil = q(E'OK 0\r\n\r\nPUB evil.x 0\r\n\r\nPUB ok.x');
foreach my $call (
	"nats_jetstream($evil)", q(nats_jetstream('STREAM.INFO.OK x')), q(nats_jetstream('')), q(nats_jetstream('STREAM.*')),
	q(nats_jetstream('STREAM..INFO')), "nats_stream_info($evil)", q(nats_stream_info('a b')), q(nats_stream_info('a.b')),
	q(nats_stream_info('*')), q(nats_stream_info('')), "nats_get_message($evil, 1)", q(nats_get_message('OK', -1)),
	"nats_create_stream($evil, '{x.>}')", q(nats_create_stream('a.b', '{x.>}')), q(nats_create_stream('>', '{x.>}')),
	q(nats_create_stream('', '{x.>}')), q(nats_create_stream('a/b', '{x.>}')))
{
	is($session->sqlstate("SELECT $call"), '22023', $call);
}
nothing_arrived('bad API requests');

# What is unusual and right arrives as it was given, byte by byte

sub arrives
{
	my ($what, $sql, %expected) = @_;
	is($session->sqlstate("SELECT $sql"), '', $what);
	my @messages = arrived();
	is(scalar @messages, 1, 'one message arrived') or return;
	my %got = map { $_ => $messages[0]{$_} } keys %expected;
	is_deeply(\%got, \%expected, 'as it was given');
	like($messages[0]{reply}, qr/^_INBOX\.\w{12}\.\w+$/, 'with a reply subject of ours');
	return;
}

arrives('a payload that is the protocol', q(nats_publish('ok.a', E'5\r\n\r\nPUB evil.x 5\r\nhello\r\n')),
	subject => 'ok.a', payload => "5\r\n\r\nPUB evil.x 5\r\nhello\r\n", raw_headers => undef);
arrives('a binary payload', q(nats_publish('ok.a', decode('000d0a2d4552520d0aff', 'hex'))),
	payload => "\0\r\n-ERR\r\n\xff", raw_headers => undef);
arrives('no payload', q(nats_publish('ok.a', NULL::text)), payload => '', raw_headers => undef);
arrives('an empty payload with headers', q(nats_publish('ok.a', '', headers => '{"A": "1"}')),
	payload => '', raw_headers => "NATS/1.0${CRLF}A: 1$CRLF$CRLF");
arrives('json as it was written', q(nats_publish('ok.a', ' {"b" : 1, "a":"ä"}'::json)), payload => " {\"b\" : 1, \"a\":\"\xc3\xa4\"}");
arrives('jsonb in its own form', q(nats_publish('ok.a', ' {"b" : 1, "a":"ä"}'::jsonb)), payload => "{\"a\": \"\xc3\xa4\", \"b\": 1}");
arrives('a subject of all characters', q(nats_publish('ok.ä€😀.!"#$%&''()+,-/:;<=?@[\]^_`{|}~.*x.x>y.**', 'x')),
	subject => "ok.\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80.!\"#\$%&'()+,-/:;<=?\@[\\]^_`{|}~.*x.x>y.**", payload => 'x');
arrives('a subject that begins like a reserved one', q(nats_publish('ok.$JS.API', 'x')), subject => 'ok.$JS.API');
arrives('a subject of 4,000 bytes', q(nats_publish('ok.' || repeat('x', 3997), 'x')), subject => 'ok.' . 'x' x 3997);
arrives('with headers and a large payload',
	q(nats_publish('ok.' || repeat('x', 3997), repeat('y', 1000000), headers => jsonb_build_object('A', repeat('z', 40000)))),
	subject => 'ok.' . 'x' x 3997, payload => 'y' x 1000000, raw_headers => "NATS/1.0${CRLF}A: " . 'z' x 40000 . "$CRLF$CRLF");
$session->value(q(SET nats_publish.inbox_prefix = '_INBOX.yyyyyyyyyyyyyyyyyyyyyyyyy'));
is($session->sqlstate(q(SELECT nats_publish('ok.' || repeat('x', 3997), 'x', headers => '{"A": "1"}'))), '', 'with a long inbox prefix');
is(scalar(arrived()), 1, 'which the server takes');
$session->value('RESET nats_publish.inbox_prefix');
arrives('headers of all kinds', q(nats_publish('ok.a', 'x', headers => '{"A": "1", "b-!#$%&*+.^_|~": "x: y\tz; \"ä\"", "Num": 1.50, "Bool": true,
	"Many": ["1", 2, false], "Empty": "", "None": []}')),
	raw_headers => join($CRLF, 'NATS/1.0', 'A: 1', 'Num: 1.50', 'Bool: true', 'Many: 1', 'Many: 2', 'Many: false', 'Empty: ',
		"b-!#\$%&*+.^_|~: x: y\tz; \"\xc3\xa4\"", '', ''));
arrives('typed arguments', q(nats_publish('ok.a', 'x', msg_id => 'i d: "ä"', expect_stream => 'OK')),
	raw_headers => join($CRLF, 'NATS/1.0', 'Nats-Expected-Stream: OK', "Nats-Msg-Id: i d: \"\xc3\xa4\"", '', ''));
arrives('a header with a meaning, in any case', q(nats_publish('ok.a', 'x', headers => '{"nats-MSG-id": "7"}')),
	raw_headers => "NATS/1.0${CRLF}Nats-Msg-Id: 7$CRLF$CRLF");
$session->value('SET nats_publish.auto_msg_id = on');
is($session->sqlstate(q(SELECT nats_publish('ok.id', 'x') FROM generate_series(1, 100))), '', 'automatic ids');
my @ids = map { $_->{raw_headers} } grep { $_->{subject} eq 'ok.id' } arrived_with_ids();
is(scalar(grep { /^NATS\/1\.0\r\nNats-Msg-Id: [0-9A-Za-z]{22}\r\n\r\n\z/ } @ids), 100, 'have 22 characters');
my %distinct = map { $_ => 1 } @ids;
is(scalar(keys %distinct), 100, 'and differ');
$session->value('SET nats_publish.auto_msg_id = off');

sub arrived_with_ids { return arrived(); }

# A failed call leaves nothing behind that goes out with the next
is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('ok.a', '1') > 0; SELECT nats_publish_async('ok.b c', '2'); ROLLBACK)), '22023', 'an error in a transaction');
is(join(' ', map { "$_->{subject}=$_->{payload}" } arrived()), 'ok.a=1', 'what was published before has been sent, and nothing else');

# Another database encoding: subject, headers and payload go out in UTF-8

publishing_database($node, 'latin1', 'LATIN1');
$session = PsqlSession->new($node, dbname => 'latin1');
$session->value(q(SET client_encoding = 'UTF8'));
arrives('from a LATIN1 database', q(nats_publish('ok.ä', 'ö', headers => '{"A": "ü"}')),
	subject => "ok.\xc3\xa4", payload => "\xc3\xb6", raw_headers => "NATS/1.0${CRLF}A: \xc3\xbc$CRLF$CRLF");
is($session->sqlstate(q(SELECT nats_publish('ok.' || repeat('ä', 2500), 'x'))), '22023', 'a subject is measured in UTF-8');
arrives('bytes are bytes', q(nats_publish('ok.a', '\xe4'::bytea)), payload => "\xe4");
is($session->value(q(SELECT headers ->> 'A' FROM nats_get_message('OK', (nats_publish('ok.back', '', headers => '{"A": "ü"}')).seq))), "\xc3\xbc",
	'and come back');
arrived();

done_testing();
