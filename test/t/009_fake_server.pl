
# A server that does what no good server does: every call ends with the error that is due, or goes on, and the session
# can publish to a real server afterwards.

use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use PsqlSession;
use PublishTest;

my $CRLF = "\r\n";
my $BOUND = 15;

my ($nats) = nats_with_stream('T', ['t.>']);
my $node = publishing_node('main',
	'nats_publish.ack_timeout' => '700ms',
	'nats_publish.commit_timeout' => '700ms',
	'nats_publish.connect_timeout' => '2s');
$node->safe_psql('postgres', 'CREATE TABLE t (i int)');

sub ack { return sprintf('{"stream":"T","seq":%d}', $_[0]); }

# A server that has a handler for each published message: ->($peer, $command, $count of messages, $number of connection).
sub fake
{
	my ($on_publish, %info) = @_;
	return FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->handshake(%info);
			my $count = 0;
			while (my $command = $peer->next_command)
			{
				next unless $command->{verb} eq 'PUB';
				# is JetStream there at all? That is asked after a 503, and is no message
				if ($command->{subject} eq '$JS.API.INFO') { $peer->reply($command, '{}'); next; }
				$peer->note("$number $command->{subject} " . ($command->{id} // '-') . " $command->{payload}");
				my $close = $on_publish->($peer, $command, ++$count, $number);
				return if ($close // '') eq 'close';
			}
		});
}

sub session_to
{
	my ($fake, %settings) = @_;
	return publishing_session($node, url => $fake->url, %settings);
}

# For what is answered, and not asked again until there is no time left: also a slow machine does that in time.
my @patiently = map { ("${_}_timeout" => '20s') } qw(ack commit connect);

# The session still lives, and works with a real server.
sub goes_on
{
	my ($session, $what) = @_;
	my $result = $session->run(q(ROLLBACK; SET nats_publish.url = ') . $nats->url . q('; SET nats_publish.connect_timeout = '20s'; SET nats_publish.ack_timeout = '20s'; SELECT (nats_publish('t.a', 'x')).stream));
	is($result->{output}, 'T', "$what: the session goes on") or diag $result->{error};
	return;
}

# How does one message end, that is waited for by its call or by COMMIT?
sub check
{
	my ($what, $expected, $on_publish, %info) = @_;
	my %sql = (
		'nats_publish()' => q(SELECT * FROM nats_publish('t.a', 'x')),
		'COMMIT' => q(BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_async('t.a', 'x') \g /dev/null
			COMMIT));
	foreach my $how (sort keys %sql)
	{
		my $fake = fake($on_publish, %info);
		my $session = session_to($fake, $expected =~ /58|53000/ ? () : @patiently);
		my $result = $session->run($sql{$how});
		my $got = $result->{sqlstate} || ($result->{error} =~ /closed the connection/ ? 'crash' : 'success');
		like($got, qr/^$expected$/, "$what: $how") or diag $result->{error};
		cmp_ok($result->{seconds}, '<', $BOUND, 'in bounded time');
		goes_on($session, $what);
	}
	return;
}

sub replies { my @answer = @_; return sub { $_[0]->reply($_[1], @answer); return; }; }
sub sends { my ($bytes) = @_; return sub { $_[0]->send($bytes); return; }; }

# Acknowledgments of all kinds

check('an acknowledgment', 'success', replies('{"stream":"T","seq":1}'));
check('one with spaces', 'success', replies('{ "stream" : "T" , "seq" : 1 } '));
check('one with more in it', 'success', replies('{"type":"x","stream":"T","more":{"a":[1,{"stream":"U"}]},"seq":1,"domain":"d","duplicate":true}'));
check('one with headers', 'success', replies('{"stream":"T","seq":1}', "${CRLF}A: b"));
check('one with escapes', 'success', replies('{"str\u0065am":"T\u00e4\n","seq":1}'));
check('one with a stream that is not UTF-8', '(success|58030)', replies("{\"stream\":\"\xff\",\"seq\":1}"));
check('a large sequence', 'success', replies('{"stream":"T","seq":9223372036854775807}'));
check('a stream with a long name', 'success', replies('{"stream":"' . 'T' x 10000 . '","seq":1}'));
my @garbage = (
	'', 'x', '{', '{}', '[]', 'null', '"T"', '+OK', '{"stream":"T"}', '{"seq":1}', '{"stream":null,"seq":1}', '{"stream":1,"seq":1}',
	'{"stream":"T","seq":"1"}', '{"stream":"T","seq":null}', '{"stream":"T","seq":1}}', '{"stream":"T","seq":1', '{"stream":"T","seq":1}x',
	'{"stream":"T","seq":}', "\0\0\0", "\xff\xfe\xfd", '{"a":{"stream":"T","seq":1}}',
	'{"stream":{"stream":"T"},"seq":[1]}', '{"error":1}', '{"error":null}', '{"error":"x"}', '{"error":[]}',
	'x' x 500000, '{"' . 'x' x 500000);
my $numbers = join '|', map { quotemeta } qw(58030 38000);
{
	# all of them over one session: none may keep the next from working
	my $fake = fake(sub { my ($peer, $command) = @_; $peer->reply($command, $garbage[ $command->{payload} ]); return; });
	my $session = session_to($fake, @patiently);
	foreach my $i (0 .. $#garbage)
	{
		my $result = $session->run("SELECT nats_publish('t.a', '$i')");
		like($result->{sqlstate}, qr/^($numbers)$/, 'no acknowledgment: ' . (substr($garbage[$i], 0, 40) =~ s/[^ -~]/?/gr))
			or diag $result->{output} . $result->{error};
	}
	is($session->value('SELECT connects, connections_lost FROM nats_session_stats()'), '1|0', 'over one connection');
	goes_on($session, 'no acknowledgments');
}
check('JSON of a great depth', '(58030|54001)', replies('{"a":' x 100000));
check('JSON arrays of a great depth', '(58030|54001)', replies('{"a":' . '[' x 100000));
check('a great number of fields', '(58030|38000)', replies('{' . join(',', map { qq("f$_":$_) } 1 .. 50000) . '}'));
check('a negative sequence', '(58030|38000|success)', replies('{"stream":"T","seq":-1}'));
check('a sequence beyond 64 bits', '(58030|38000|success)', replies('{"stream":"T","seq":99999999999999999999999}'));
check('a fraction as sequence', '(58030|38000|success)', replies('{"stream":"T","seq":1.5}'));

check('an error', '38000', replies('{"error":{"code":400,"err_code":10999,"description":"strange"},"stream":"T","seq":0}'));
check('an empty error', '38000', replies('{"error":{}}'));
check('an error of odd types', '(38000|58030)', replies('{"error":{"code":"x","err_code":1e99,"description":null}}'));
check('a long error', '38000', replies('{"error":{"code":400,"err_code":1,"description":"' . 'x' x 100000 . '"}}'));
check('an error with NUL', '(38000|58030)', replies('{"error":{"code":400,"err_code":1,"description":"a\u0000b"}}'));
check('an error with a format', '38000', replies('{"error":{"code":400,"err_code":1,"description":"%s%n%d"}}'));
check('an error with an acknowledgment', '40001', replies('{"stream":"T","seq":5,"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 5"}}'));

# Escapes that the database's encoding does not have
foreach my $encoding ('LATIN1', 'SQL_ASCII')
{
	my $database = publishing_database($node, lc $encoding, $encoding);
	my $fake = fake(replies('{"error":{"code":400,"err_code":10999,"description":"\u4e16"}}'));
	my $session = PsqlSession->new($node, dbname => $database, settings => { 'nats_publish.url' => $fake->url, 'nats_publish.ack_timeout' => '20s' });
	my $result = $session->run(q(SELECT nats_publish('t.a', 'x')));
	is($result->{sqlstate}, '38000', "an error with a character that is not in $encoding") or diag $result->{error};
	goes_on($session, 'after it');
}

# Replies that are not for this message

my %strays = (
	'a token that was never given' => sub { "$_[0]zzzz" },
	'a token yet to come' => sub { my ($prefix, $token) = @_; $prefix . ($token =~ tr/0-8/1-9/r) },
	'no token' => sub { $_[0] },
	'a token with another prefix' => sub { "_INBOX.somebody.$_[1]" },
	'no subject of an inbox' => sub { 'a' },
	'a very long token' => sub { $_[0] . '1' x 3000 },
	'strange tokens' => sub { "$_[0]..//--" });
foreach my $what (sort keys %strays)
{
	my $fake = fake(
		sub
		{
			my ($peer, $command, $count) = @_;
			my ($prefix, $token) = $command->{reply} =~ /^(.*\.)(.*)$/;
			$peer->reply($strays{$what}->($prefix, $token), ack(999)) foreach 1 .. 3;
			$peer->reply($command, ack($count));
			$peer->reply($command, ack(999));    # once more, and late
			return;
		});
	my $session = session_to($fake, @patiently);
	is($session->value(q(SELECT (nats_publish('t.a', i::text)).seq FROM generate_series(1, 3) i)), "1\n2\n3", "acknowledgments of $what are ignored");
	next if $what =~ /yet to come/;    # which has come, when many are sent at once
	is($session->value(q(BEGIN; SELECT count(*) FROM (SELECT nats_publish_async('t.a', i::text) FROM generate_series(1, 100) i) s; SELECT nats_flush() \g /dev/null
		SELECT min(seq), max(seq), count(DISTINCT seq) FROM nats_futures(); COMMIT)), "100\n4|103|100", 'also in a transaction');
	goes_on($session, $what);
}

# In reverse order
{
	my @commands;
	my $fake = fake(
		sub
		{
			my ($peer, $command) = @_;
			push @commands, $command;
			return if @commands < 50;
			$peer->reply($_, ack(1000 + $_->{payload})) foreach reverse @commands;
			return;
		});
	my $session = session_to($fake, @patiently);
	is($session->value(q(BEGIN; SELECT nats_publish_async('t.a', i::text) FROM generate_series(1, 50) i \g /dev/null
		SELECT nats_flush() >= 0; SELECT count(*), min(seq - future), max(seq - future) FROM nats_futures(); COMMIT)),
		"t\n50|1000|1000", 'acknowledgments in reverse order');
	goes_on($session, 'reverse order');
}

# Errors and other operations in between

check('a storm of errors', 'success', sub { $_[0]->send("-ERR 'Whatever you did'$CRLF" x 20000); $_[0]->reply($_[1], ack(1)); return; });
check('other operations in between', 'success',
	sub { my ($peer, $command) = @_; $peer->send("+OK${CRLF}PING${CRLF}PONG${CRLF}PONG${CRLF}-ERR${CRLF}-ERR 'x'$CRLF" . $peer->info_line); $peer->reply($command, ack(1)); return; });
check('permission errors about nothing of ours', 'success',
	sub
	{
		my ($peer, $command) = @_;
		$peer->send("-ERR 'Permissions Violation for $_'$CRLF")
			foreach 'Publish to "', 'Publish to "other"', 'Publish to "t.a', 'Publish to "t.a\\', 'Publish to "t.', 'Publish to "t.ab"', 'Publish to ""',
			'Publish with Reply of "', 'Publish with Reply of "x"', 'Subscription to "x"', 'Publish to';
		$peer->reply($command, ack(1));
		return;
	});
check('a permission error', '42501', sends(qq(-ERR 'Permissions Violation for Publish to "t.a"'$CRLF)));
check('a permission error about the reply subject', '42501',
	sub { my ($peer, $command) = @_; $peer->send(qq(-ERR 'Permissions Violation for Publish with Reply of "$command->{reply}"'$CRLF)); return; });
check('one byte at a time', 'success',
	sub { my ($peer, $command) = @_; $peer->slow("PING$CRLF-ERR 'x'$CRLF" . $peer->reply_bytes($command, ack(1), "${CRLF}A: b")); return; });
check('an INFO of 300 kB', 'success', sub { my ($peer, $command) = @_; $peer->send($peer->info_line(pad => '"' . 'x' x 300000 . '"')); $peer->reply($command, ack(1)); return; });
check('a greeting of 30 kB', '(success|58000)', replies(ack(1)), pad => '"' . 'x' x 30000 . '"');
check('a greeting of 3 MB', '(success|58000)', replies(ack(1)), pad => '"' . 'x' x 3000000 . '"');
check('an unfinished reply', '58030', sub { my ($peer, $command) = @_; $peer->send("MSG $command->{reply} 1 30$CRLF" . '{"stream":'); return; });
check('a line without end', '580[03]0', sub { my ($peer) = @_; 1 while $peer->send('x' x 100000); return 'close'; });
check('an operation without end', '580[03]0', sub { my ($peer) = @_; $peer->send('INFO '); 1 while $peer->send('x' x 100000); return 'close'; });
check('errors without end', '580[03]0', sub { my ($peer) = @_; 1 while $peer->send("-ERR 'x'$CRLF" x 1000); return 'close'; });
check('a message without end', '580[03]0',
	sub { my ($peer, $command) = @_; $peer->send("MSG $command->{reply} 1 60000000$CRLF"); 1 while $peer->send('x' x 100000); return 'close'; });
foreach my $line ("MSG$CRLF", "MSG a$CRLF", "MSG a b$CRLF", "MSG a 1 -1$CRLF", "MSG a 1 x$CRLF", "MSG a 1 99999999999999999999999$CRLF", "MSG a 1 2147483648$CRLF",
	"MSG a 1 5${CRLF}abcdefgh$CRLF", "MSG a b c d e$CRLF", "HMSG a 1 10 5${CRLF}abcde$CRLF", "HMSG a 1 5$CRLF", "HMSG a 1 99999999999 99999999999$CRLF",
	"HMSG a 1 3 3${CRLF}abc$CRLF", "WHAT$CRLF", $CRLF, "\0$CRLF", "MSG\0a 1 1${CRLF}x$CRLF", "INFO$CRLF", "\n", "\r", 'MSG' . ' ' x 5000 . "a 1 0$CRLF$CRLF")
{
	# whether or not it takes the line for the protocol, it must not hang, and the connection that follows is good
	my $fake = fake(
		sub
		{
			my ($peer, $command, $count, $number) = @_;
			$peer->send($line) if $number == 1;
			$peer->reply($command, ack(1));
			return;
		});
	my $session = session_to($fake);
	my $result = $session->run(q(SELECT (nats_publish('t.a', 'x')).seq));
	like($result->{output} . $result->{sqlstate}, qr/^(1|580[03]0)$/, 'a strange line: ' . ($line =~ s/\r/\\r/gr =~ s/\n/\\n/gr =~ s/\0/\\0/gr =~ s/ {9,}/.../gr))
		or diag $result->{error};
	goes_on($session, 'a strange line');
}

# "Not now", and then an acknowledgment

my @not_now = (
	[ '503', '', ' 503' ],
	[ '503 with the subject', '', " 503${CRLF}Nats-Subject: t.a" ],
	[ '503 with a text', '', ' 503 No Responders' ],
	[ '429', '{"error":{"code":429,"err_code":10167,"description":"too many requests"},"stream":"T","seq":0}', ' 429 Too Many Requests' ],
	[ '429 without headers', '{"error":{"code":429,"err_code":10167,"description":"too many requests"},"stream":"T","seq":0}' ],
	[ 'in process', '{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"},"stream":"T","seq":0}' ],
	[ 'sequence 0', '{"stream":"T","seq":0,"duplicate":true}' ],
	[ 'unavailable', '{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}' ]);
foreach my $not_now (@not_now)
{
	my ($what, @answer) = @$not_now;
	my %asked;
	my $fake = fake(
		sub
		{
			my ($peer, $command, $count) = @_;
			if ($command->{payload} eq 'late' && ++$asked{ $command->{id} } <= 2) { $peer->reply($command, @answer); }
			else { $peer->reply($command, ack($count)); }
			return;
		});
	my $session = session_to($fake, ack_timeout => '20s', commit_timeout => '20s');
	my $result = $session->run(q(SELECT (nats_publish('t.a', 'late')).stream));
	is($result->{output}, 'T', "twice $what: nats_publish() asks again") or diag $result->{error};
	my @seen = map { $fake->next_event } 1 .. 3;
	is(scalar(grep { $_ eq $seen[0] } @seen), 3, 'with the same message and id');
	is($session->value('SELECT acked, failed, retried FROM nats_session_stats()'), '1|0|2', 'which is counted');
	$result = $session->run(q(BEGIN; SELECT nats_publish_async('t.a', CASE WHEN i % 10 = 0 THEN 'late' ELSE 'x' END) FROM generate_series(1, 50) i \g /dev/null
		COMMIT));
	is($result->{error}, '', 'COMMIT does too, for some messages of many');
	is($session->value('SELECT published, acked, failed, retried FROM nats_session_stats()'), '51|51|0|12', 'and for no others');
	goes_on($session, $what);
}

# "Not now", for ever
check('503 for ever', '42704', replies('', ' 503'));
{
	my $fake = fake(replies('', ' 503'));
	my $session = session_to($fake, ack_timeout => '20s');
	my $result = $session->run(q(SELECT nats_publish('t.a', 'x')));
	is($result->{sqlstate}, '42704', 'no responders');
	cmp_ok($result->{seconds}, '<', $BOUND, 'is known long before ack_timeout');
	my @seen = map { $fake->next_event(1) } 1 .. 5;
	is(scalar(grep { defined } @seen), 4, 'after four attempts');
	my $code = '{"error":{"code":%d,"err_code":%d,"description":"%s"},"stream":"T","seq":0}';
	check('429 for ever', '53000', replies(sprintf($code, 429, 10167, 'too many requests')));
	check('in process for ever', '58030', replies(sprintf($code, 409, 10158, 'duplicate message id is in process')));
	check('sequence 0 for ever', '58030', replies('{"stream":"T","seq":0,"duplicate":true}'));
}

# A backend that is stopped until it is late for both, to ask again and to give up
{
	my $fake = fake(replies('', ' 503'));
	my $session = session_to($fake, ack_timeout => '2s');
	$session->begin(q(SELECT nats_publish('t.a', 'x')));
	ok($fake->next_event(5), 'no responders');
	sleep 0.1;
	kill 'STOP', $session->pid;
	sleep 2.2;
	kill 'CONT', $session->pid;
	is($session->finish->{sqlstate}, '42704', 'is told, and not asked again just to be given up');
	goes_on($session, 'stopped');
}

# What was "not now" for certain, and then silence, or for certain after it was not: nobody knows
{
	my $in_process = '{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}';
	my $full = '{"error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"},"stream":"T","seq":0}';
	my @answers = (
		[ '503, and then silence', [ '', ' 503' ] ],
		[ '429, and then silence', ['{"error":{"code":429,"err_code":10167,"description":"too many requests"}}'] ],
		[ 'in process, and then 503', [$in_process], ([ '', ' 503' ]) x 4 ],
		[ 'in process, and then a refusal', [$in_process], [$full] ]);
	foreach my $case (@answers)
	{
		my ($what, @answer) = @$case;
		check($what, '58030', sub
			{
				my ($peer, $command, $count) = @_;
				$peer->reply($command, @{ $answer[ $count - 1 ] }) if $answer[ $count - 1 ];
				return;
			});
	}
}

# Without an id, what may be stored is not asked again
{
	my $fake = fake(replies('{"error":{"code":409,"err_code":10158,"description":"duplicate message id is in process"}}'));
	my $session = session_to($fake, auto_msg_id => 'off');
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x'))), '58030', 'in process, without an id');
	ok($fake->next_event(5), 'is asked once');
	is($fake->next_event(0.3), undef, 'and no more');
	goes_on($session, 'in process, without an id');
}

# A cancel while it waits to ask again, which it would do until there is no answer any more
{
	my $fake = fake(sub { my ($peer, $command, $count) = @_; $peer->reply($command, '', ' 503') if $count <= 30; return; });
	my $session = session_to($fake, commit_timeout => '60s');
	$session->begin(q(BEGIN; SELECT nats_publish_async('t.a', 'x') FROM generate_series(1, 10) \g /dev/null
		COMMIT));
	ok($fake->next_event, 'no responders') foreach 1 .. 10;
	sleep 0.05;
	kill 'INT', $session->pid;
	is($session->finish->{sqlstate}, '57014', 'cancelled while it waits to ask again');
	goes_on($session, 'cancelled');
}

# Another stream than the expected one, of servers that do not look at the header
check('another stream without expectation', 'success', replies('{"stream":"OTHER","seq":1}'));
{
	my $fake = fake(replies('{"stream":"OTHER","seq":1}'));
	my $session = session_to($fake);
	my $result = $session->run(q(SELECT nats_publish('t.a', 'x', expect_stream => 'T')));
	is($result->{sqlstate}, '40001', 'another stream than expected has answered');
	like($result->{error}, qr/"OTHER"/, 'which is named');
	is($session->sqlstate(q(BEGIN; SELECT nats_publish_async('t.a', 'x', expect_stream => 'T'); COMMIT)), '40001', 'at COMMIT');
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', headers => '{"nats-expected-stream": "T"}'))), '40001', 'expected by a header');
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', expect_stream => 'OTHE'))), '40001', 'a part of the name');
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', expect_stream => 'OTHER'))), '', 'the right one');
	goes_on($session, 'another stream');
}

# A stream of another JetStream domain, which refuses what is not for it, and is faster than the expected one
{
	my $other = '{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"},"stream":"OTHER","seq":0}';
	my $fake = fake(
		sub
		{
			my ($peer, $command, $count, $number) = @_;
			$peer->reply($command, $other) foreach 1 .. 2;
			return 'close' if $command->{payload} eq 'lost' && $number == 1;
			return if $command->{payload} ne 'both';
			sleep 0.1;
			$peer->reply($command, ack($count));
			return;
		});
	my $session = session_to($fake, ack_timeout => '20s', commit_timeout => '20s');
	my $call = q(nats_publish_async('t.a', '%s', expect_stream => 'T', msg_id => '%s'));
	foreach my $case ([ 'both', '', 'both refuse or take it' ], [ 'alone', '40001', 'nobody takes it' ], [ 'lost', '58030', 'the connection is lost before anybody can have taken it' ])
	{
		my ($payload, $sqlstate, $what) = @$case;
		my $async = sprintf($call, $payload, $payload);
		is($session->sqlstate($async =~ s/.*?\(/SELECT nats_publish(/r), $sqlstate, "a stream of another domain refuses the message, $what: nats_publish()");
		is($session->sqlstate("BEGIN; SELECT $async; COMMIT"), $sqlstate, 'COMMIT') if $payload ne 'lost';
	}
	my $both = sprintf($call, 'both', 'both');
	is($session->sqlstate("BEGIN; SELECT $both; SELECT pg_sleep(1); SELECT $both, $both; COMMIT"), '', 'an acknowledgment that was not read for long');
	goes_on($session, 'a stream of another domain');
	$session = session_to($fake, ack_timeout => '100ms');
	ok((grep { $session->sqlstate(q(SELECT nats_publish('t.a', 'alone', expect_stream => 'T', msg_id => 'alone'))) eq '58030' } 1 .. 5),
		'it is not known that nobody takes it when there was no time for that');
}

# The expected stream answers "not now", in whatever order; and nobody takes a message that others had put off before
{
	my $other = '{"error":{"code":400,"err_code":10060,"description":"expected stream does not match"},"stream":"OTHER","seq":0}';
	my $later = '{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}';
	my %copies = (
		'not now, refused' => [ [ $later, $other ], [ ack(1), $other ] ],
		'refused, not now' => [ [ $other, $later ], [ $other, ack(1) ] ],
		'not now, nobody' => [ ([$later]) x 3, [''], [''], [ ack(1) ] ]);
	foreach my $what (sort keys %copies)
	{
		my $fake = fake(
			sub
			{
				my ($peer, $command, $count) = @_;
				$peer->reply($command, $_, $_ eq '' ? ' 503' : ()) foreach @{ $copies{$what}[$count - 1] };
				return;
			});
		my $session = session_to($fake, @patiently);
		is($session->sqlstate(q(SELECT nats_publish('t.a', 'x', expect_stream => 'T', msg_id => 'x'))), '', "$what: it is asked again, and stored");
	}
}

# Connections that end

check('closes after PUB', '580[03]0', sub { return 'close'; });
check('half a reply and the end', '580[03]0', sub { my ($peer, $command) = @_; $peer->send("MSG $command->{reply} 1 22$CRLF" . '{"stream":'); return 'close'; });
check('an error and the end', '580[03]0', sub { my ($peer) = @_; $peer->send("-ERR 'Stale Connection'$CRLF"); return 'close'; });
check('closes, and then answers', 'success',
	sub { my ($peer, $command, $count, $number) = @_; return 'close' if $number == 1; $peer->reply($command, ack(1)); return; });
check('closes after the acknowledgment', 'success', sub { my ($peer, $command) = @_; $peer->reply($command, ack(1)); return 'close'; });
{
	# every connection acknowledges one message and ends: each is progress
	my $fake = fake(sub { my ($peer, $command) = @_; $peer->reply($command, ack(1)); return 'close'; });
	my $session = session_to($fake, commit_timeout => '20s');
	my $result = $session->run(q(BEGIN; SELECT nats_publish_async('t.a', i::text) FROM generate_series(1, 10) i \g /dev/null
		COMMIT));
	is($result->{error}, '', 'a server that acknowledges one message for each connection');
	is($session->value('SELECT acked, failed FROM nats_session_stats()'), '10|0', 'in the end has acknowledged all');
	goes_on($session, 'one for each connection');
}
{
	# the first connection gets part of a transaction, the second the rest
	my %seen;
	my $fake = fake(
		sub
		{
			my ($peer, $command, $count, $number) = @_;
			return 'close' if $number == 1 && $count == 30;
			$peer->reply($command, ack($count)) if $number > 1 || $count <= 10;
			return;
		});
	my $session = session_to($fake, commit_timeout => '20s');
	my $result = $session->run(q(BEGIN; SELECT nats_publish_async('t.a', i::text) FROM generate_series(1, 50) i \g /dev/null
		COMMIT));
	is($result->{error}, '', 'a connection that ends in the middle');
	my %of_connection;
	while (defined(my $event = $fake->next_event(0.5)))
	{
		my ($number, undef, $id, $payload) = split / /, $event;
		push @{ $of_connection{$number} }, "$payload=$id";
	}
	my %id_of = map { split /=/ } map { @$_ } values %of_connection;
	is(scalar(keys %id_of), 50, 'all messages were sent');
	is_deeply([ grep { !exists $id_of{$_} } 1 .. 50 ], [], 'with their payloads');
	is_deeply([ grep { my ($payload, $id) = split /=/; $id_of{$payload} ne $id } map { @$_ } values %of_connection ], [], 'always with the same id');
	my @second = map { (split /=/)[0] } @{ $of_connection{2} // [] };
	is_deeply(\@second, [ sort { $a <=> $b } @second ], 'on the second connection in order');
	is($session->value('SELECT acked, failed, connections_lost FROM nats_session_stats()'), '50|0|1', 'and acknowledged');
	goes_on($session, 'a connection that ends in the middle');
}

# A server that has stopped to answer, from which an administrator takes all sessions away
{
	my $fake = fake(sub { });
	my $session = session_to($fake);
	$session->value(q(SELECT nats_publish_async('t.a', 'x', critical => false)));
	goes_on($session, 'what nobody waits for does not keep it');
	$session->value(q(SET nats_publish.ack_timeout = '100ms'; SELECT pg_sleep(0.2); SELECT count(*) FROM nats_futures()));
	is($session->value('SELECT failed_uncritical FROM nats_session_stats()'), 1, 'and is counted when its time is over');
}

# A server that was lost, does not greet any more, and is not needed by the COMMIT
{
	my $lost = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return $peer->hold if $number > 1;
			$peer->handshake;
			while (my $command = $peer->next_command) { return $peer->reply($command, ack(1)) if $command->{verb} eq 'PUB'; }
			return;
		});
	$node->safe_psql('postgres', sprintf(q(CREATE SERVER lost FOREIGN DATA WRAPPER nats OPTIONS (url '%s')), $lost->url));
	my $session = session_to($nats, server => 'lost', @patiently);
	is($session->sqlstate(q(SELECT nats_publish('t.a', 'x'))), '', 'a message to one server');
	$session->value(q(SET nats_publish.connect_timeout = '300ms'; SET nats_publish.ack_timeout = '700ms'; SET nats_publish.commit_timeout = '60s'));
	wait_for('its end', sub { $session->sqlstate(q(SELECT nats_publish('t.a', 'x'))) eq '58000' });
	my $result = $session->run(q(SET nats_publish.server = ''; SET nats_publish.connect_timeout = '60s'; BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null
		SELECT pg_sleep(0.5); COMMIT));
	is($result->{error}, '', 'a COMMIT that needs another server');
	cmp_ok($result->{seconds}, '<', $BOUND, 'does not connect to the lost one');
}

# Limits that change on an open connection
{
	my $fake = fake(
		sub { my ($peer, $command) = @_; $peer->send($peer->info_line(max_payload => 100)); $peer->reply($command, ack(1)); return; });
	my $session = session_to($fake);
	is($session->sqlstate(q(SELECT nats_publish('t.a', repeat('x', 1000)))), '', 'a message');
	# It is asked again before an error, and greets with the limit that it had.
	is($session->sqlstate(q(SELECT nats_publish('t.a', repeat('x', 1000)))), '', 'the same after the server has lowered its max_payload, and raised it again');
	goes_on($session, 'a lowered max_payload');
}
# which is none
check('a max_payload of 0', 'success', replies(ack(1)), max_payload => 0);
check('a negative max_payload', 'success', replies(ack(1)), max_payload => -1);
check('a max_payload that is no number', '(54000|58000|success)', replies(ack(1)), max_payload => '"x"');

# A server that greets the second connection, which asks for its INFO, in another way than the first
{
	my $no_version = 'INFO {"server_id":"FAKE","max_payload":1048576}' . $CRLF;
	my %greetings = (
		"PING$CRLF" => qr/does not greet with INFO/,
		"HTTP/1.1 400 Bad Request$CRLF" => qr/does not speak the NATS protocol/,
		'INFO {' => qr/does not answer in time/,
		"INFO []$CRLF" => qr/something other than a JSON object/,
		'INFO {"server_id":"OTHER"}' . $CRLF => qr/Other servers answer at its address/,
		$no_version => qr/does not tell its version/);
	foreach my $greeting (sort keys %greetings)
	{
		my $fake = FakeServer->new(
			sub
			{
				my ($peer, $number) = @_;
				if ($number > 1) { $peer->send($greeting); $peer->hold; return; }
				$peer->handshake;
				while ($peer->next_command) { }
				return;
			});
		my $call = $greeting eq $no_version ? q(nats_publish('t.a', 'x', ttl => '1 h')) : 'nats_server_info()';
		my $result = session_to($fake)->run("SELECT $call");
		is($result->{sqlstate}, '58000', 'greeted with ' . $greeting =~ s/\s+$//r);
		like($result->{error}, $greetings{$greeting}, 'it says why not');
	}
}

# What is answered to the members of an atomic batch; the last one is its commit

sub refusal { my ($code, $text) = @_; return qq({"error":{"code":400,"err_code":$code,"description":"$text"},"stream":"T","seq":0}); }

# The answers of all attempts, of which the last one goes on for ever; ID stands for that of the batch, undef for silence.
sub check_batch
{
	my ($what, $expected, $text, $answers, %settings) = @_;
	my $subject = delete $settings{subject} // q('t.a');
	my $fake = fake(
		sub
		{
			my ($peer, $command, $count) = @_;
			my $answer = $answers->[ $count <= @$answers ? $count - 1 : ($count - 1) % 3 - 3 ];
			$peer->reply($command, ref $answer ? @$answer : $answer =~ s/ID/$command->{batch}{id}/r) if defined $answer;
			return;
		},
		version => '"2.12.0"');
	my $session = session_to($fake, commit_batch => 'atomic', commit_timeout => '20s', %settings);
	$node->safe_psql('postgres', 'TRUNCATE t');
	my $result = $session->run("BEGIN; INSERT INTO t VALUES (1); SELECT nats_publish_on_commit($subject, i::text) FROM generate_series(1, 3) i \\g /dev/null
		COMMIT");
	is($result->{sqlstate}, $expected, "a batch: $what") or diag $result->{error};
	like($result->{error}, $text, 'what is told');
	is($node->safe_psql('postgres', 'SELECT count(*) FROM t'), $expected eq '' ? 1 : 0, 'the row');
	goes_on($session, $what);
	return;
}

my $batch_ack = '{"stream":"T","seq":3,"batch":"ID","count":3}';
my @short = (commit_timeout => '2s');
check_batch('its acknowledgment', '', qr/^$/, [ '', '', $batch_ack ]);
check_batch('its acknowledgment alone', '', qr/^$/, [ undef, undef, $batch_ack ], @short);
check_batch('its acknowledgment after "not now"', '', qr/^$/, [ ([ '', ' 503' ]) x 3, '', '', $batch_ack ]);

check_batch('nothing but that its commit has arrived', '58030', qr/as one batch: the commit of the batch has no acknowledgment$/m, [ '', '', '' ]);
check_batch("its commit is answered with $_", '58030', qr/as one batch: the server has acknowledged something other than the batch$/m, [ '', '', $_ ])
	foreach '{"stream":"T","seq":3}', '{"stream":"T","seq":3,"batch":"ID"}', '{"stream":"T","seq":3,"count":3}', '{"stream":"T","seq":3,"batch":"ID","count":2}',
	'{"stream":"T","seq":3,"batch":"ID","count":"3"}', '{"stream":"T","seq":3,"batch":"ID ","count":3}', '{"stream":"T","seq":3,"batch":"","count":3}',
	'{"stream":"T","seq":3,"batch":"0123456789ABCDEFGHIJKL","count":3}', '{"stream":"T","seq":3,"batch":null,"count":3}';
check_batch('its commit is answered with no JSON', '58030', qr/the reply is not an acknowledgment of JetStream$/m, [ '', '', 'x' ]);
check_batch('nonsense for its commit, and no answer to another member', '58030', qr/as one batch: /, [ undef, '', $_ ], @short)
	foreach '', '{"stream":"T","seq":3}';
check_batch('its acknowledgment comes to another member', '58030', qr/something other than the batch$/m, [ '', $batch_ack, '' ]);

# Of several refusals the first is told that is no consequence of another one.
my $incomplete = refusal(10176, 'batch is incomplete');
my $conflict = refusal(10071, 'wrong last sequence: 5');
my $is_full = refusal(10077, 'maximum messages exceeded');
check_batch('the cause before its consequences', '40001', qr/wrong last sequence: 5/, [ $conflict, $incomplete, $incomplete ]);
check_batch('the cause between its consequences', '40001', qr/wrong last sequence: 5/, [ $incomplete, $conflict, $incomplete ]);
check_batch('the cause behind its consequences', '40001', qr/wrong last sequence: 5/, [ $incomplete, $incomplete, $conflict ]);
check_batch('two causes', '40001', qr/wrong last sequence: 5/, [ $incomplete, $conflict, $is_full ]);
check_batch('two causes, in the other order', '53400', qr/maximum messages exceeded/, [ $is_full, $incomplete, $conflict ]);
check_batch('nonsense before a consequence', '58030', qr/something other than the batch$/m, [ '{"stream":"T","seq":1}', '', $incomplete ]);
check_batch('nonsense behind a consequence', '58030', qr/something other than the batch$/m, [ $incomplete, '', '{"stream":"T","seq":1}' ]);
check_batch('only consequences, for ever', '0A000', qr/batch is incomplete .*HINT:  All messages of the transaction must go to one stream/s, [ ($incomplete) x 3 ], subject => q('t.' || i));
check_batch('only consequences, of one subject', '58000', qr/batch is incomplete \(JetStream error 10176\)$/m, [ ($incomplete) x 3 ], @short);
check_batch('only consequences, for some time', '', qr/^$/, [ ($incomplete) x 15, '', '', $batch_ack ]);
check_batch('only consequences, once', '', qr/^$/, [ ($incomplete) x 3, '', '', $batch_ack ]);

# A server of a JetStream domain
is(session_to(fake(replies('{"stream":"T","domain":"hub","seq":7}')))->value(q(SELECT * FROM nats_publish('t.a', 'x'))), 'T|7|f|hub|', 'a domain');

# Requests
{
	my %answers = (
		'x' => '38000', '{' => '38000', '{"error":{"code":404,"err_code":10059,"description":"stream not found"}}' => '42704',
		'{"error":{"code":500,"err_code":1,"description":"x"}}' => '38000', '[]' => '38000', '' => '38000',
		'{"config":{},"state":{}}' => '', '{"message":{}}' => '', '{"a":1e1000000}' => '38000');
	foreach my $answer (sort keys %answers)
	{
		my $fake = fake(replies($answer));
		my $session = session_to($fake);
		is($session->sqlstate(q(SELECT nats_stream_info('T'))), $answers{$answer}, "a request that is answered with '$answer'");
		unlike($session->error(q(SELECT nats_get_message('T', 1))), qr/closed the connection/, 'nats_get_message()');
		unlike($session->error(q(SELECT nats_create_stream('T', '{t}'))), qr/closed the connection/, 'nats_create_stream()');
		goes_on($session, 'a strange answer to a request');
	}
	my $fake = fake(replies('{"message":{"subject":"x","seq":1,"hdrs":"%%%","data":"!!!","time":"yesterday"}}'));
	my $session = session_to($fake);
	isnt($session->sqlstate(q(SELECT nats_get_message('T', 1))), '', 'a message in bad base64');
	goes_on($session, 'a message in bad base64');
}

is($node->safe_psql('postgres', q(SELECT pg_postmaster_start_time() < now())), 't', 'PostgreSQL lives');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP|server process/, 'and no backend has crashed');

done_testing();
