
# A server that is an enemy: whatever it sends and wherever it stops, each way of publishing ends in time, with an error
# or with a success that is none of its lies. The backend lives, keeps its size, and works with a good server afterwards.
# 009_fake_server.pl has the servers that are merely strange.

use strict;
use warnings FATAL => 'all';

use MIME::Base64 qw(encode_base64);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use FakeServer;
use PsqlSession;
use PublishTest;

my $CRLF = "\r\n";
my $BOUND = 15;
my $AT_A_TIME = 5;
my $FLOOD_SECONDS = 10;
# of what a flood may make a backend grow: its own buffers, not what was sent
my $GROWTH = 20 * 1024;

my $seed = $ENV{NATS_FUZZ_SEED} // time;
note("random bytes are those of NATS_FUZZ_SEED=$seed");

my ($nats) = nats_with_stream('T', ['t.>']);
my $node = publishing_node('main', max_connections => 60);
is($node->safe_psql('postgres', 'SHOW server_encoding'), 'UTF8', 'what is text');
$node->safe_psql('postgres', 'CREATE TABLE t (mode text, i int)');

# %1$s: the number of the case; %2$s: more arguments
my %MODES = (
	call => q(SELECT * FROM nats_publish('t.a', 'x'%2$s)),
	async => q(BEGIN; INSERT INTO t VALUES ('async', %1$s); SELECT nats_publish_async('t.a', 'x'%2$s) \g /dev/null
		COMMIT),
	await => q(BEGIN; INSERT INTO t VALUES ('await', %1$s); SELECT ack.* FROM nats_publish_async('t.a', 'x'%2$s) AS future, LATERAL nats_await(future) AS ack;
		SELECT * FROM nats_futures(); COMMIT),
	on_commit => q(BEGIN; INSERT INTO t VALUES ('on_commit', %1$s); SELECT nats_publish_on_commit('t.a', 'x'%2$s) \g /dev/null
		COMMIT));

my @lanes = map { { map { ($_ => PsqlSession->new($node)) } keys %MODES } } 1 .. $AT_A_TIME;

# ---- How a case is judged

sub outcome
{
	my ($result) = @_;
	return $result->{sqlstate} if $result->{sqlstate};
	return $result->{error} =~ /server closed the connection|terminating connection/ ? 'crash' : 'success';
}

sub is_utf8 { my ($text) = @_; return utf8::decode($text); }

# What a PubAck that was believed says: the fields of the first row.
sub is_true_ack
{
	my ($output) = @_;
	my ($stream, $seq) = $output =~ /\A(.*?)\|(-?\d+)\|[tf]\|[^|\n]*\|[^|\n]*$/ms or return 0;
	return $stream ne '' && $seq =~ /^[1-9]\d{0,18}$/;
}

sub judge
{
	my ($case, $mode, $result) = @_;
	my $outcome = outcome($result);
	my $fine = like($outcome, qr/^(?:$case->{expected})$/, "$case->{what}: $mode");
	$fine &= cmp_ok($result->{seconds}, '<', $BOUND, 'in time') if $result->{seconds} >= $BOUND;
	$fine &= ok(is_utf8($result->{$_}), "$_ is valid text") foreach grep { !is_utf8($result->{$_}) } 'output', 'error';
	$fine &= ok(0, 'what was believed is an acknowledgment')
		if $outcome eq 'success' && $mode =~ /^(call|await)$/ && !is_true_ack($result->{output});
	diag(substr($result->{output} . $result->{error}, 0, 2000) =~ s/[^ -~\n]/?/gr) unless $fine;
	BAIL_OUT("$case->{what}: a backend has crashed") if $outcome eq 'crash';
	push @{ $case->{committed} }, $mode if $outcome eq 'success' && $mode ne 'call';
	return;
}

# The same backends, with the real server; and a row is there exactly when its message was acknowledged.
sub judge_after
{
	my ($case, $lane) = @_;
	my $url = $nats->url;
	$lane->{$_}->begin(qq(ROLLBACK; SET nats_publish.url = '$url'; SET nats_publish.ack_timeout = '10s'; SET nats_publish.connect_timeout = '10s';
		SELECT (nats_publish('t.a', 'x')).stream, pg_backend_pid())) foreach keys %$lane;
	my @went_on = grep { $lane->{$_}->finish->{output} eq 'T|' . $lane->{$_}->pid } sort keys %$lane;
	is("@went_on", join(' ', sort keys %$lane), "$case->{what}: the sessions go on");
	is($lane->{call}->value("SELECT coalesce(string_agg(mode, ' ' ORDER BY mode), '') FROM t WHERE i = $case->{number}"),
		join(' ', sort @{ $case->{committed} // [] }), 'what was committed');
	return;
}

# ---- Cases: what it is, the expected SQLSTATEs or "success", and the server

my @cases;

# %more: info => {fields of INFO}, arguments => of the function; timeout => '1s'. What is expected to end by a timeout
# gets a short one, and in a case that begins with 58 it does not matter when that comes too early.
sub hostile
{
	my ($what, $expected, $handler, %more) = @_;
	push @cases, { what => $what, expected => $expected, handler => $handler, timeout => $expected =~ /^58/ ? '400ms' : '10s', %more, number => scalar @cases };
	return;
}

# The same for a server that greets well, and does this for each message.
sub hostile_answer
{
	my ($what, $expected, $on_publish, %more) = @_;
	hostile($what, $expected, $on_publish, %more, answers => 1);
	return;
}

sub start_case
{
	my ($case, $lane) = @_;
	$case->{fake} =
		$case->{answers} ? FakeServer->answering($case->{handler}, %{ $case->{info} // {} }) : FakeServer->new($case->{handler});
	my $url = $case->{fake}->url;
	# one that greets well is only slow when the machine is loaded
	my $connect_timeout = $case->{answers} ? '10s' : $case->{timeout};
	foreach my $mode (keys %$lane)
	{
		my $sql = sprintf($MODES{$mode}, $case->{number}, $case->{arguments} // '');
		$lane->{$mode}->begin(qq(SET nats_publish.url = '$url'; SET nats_publish.ack_timeout = '$case->{timeout}';
			SET nats_publish.commit_timeout = '$case->{timeout}'; SET nats_publish.connect_timeout = '$connect_timeout'; $sql));
	}
	return;
}

sub run_cases
{
	while (my @some = splice(@cases, 0, $AT_A_TIME))
	{
		start_case($some[$_], $lanes[$_]) foreach 0 .. $#some;
		my @results = map { my $lane = $_; +{ map { ($_ => $lane->{$_}->finish) } keys %MODES } } @lanes[ 0 .. $#some ];
		$_->{fake}->stop foreach @some;
		foreach my $i (0 .. $#some)
		{
			judge($some[$i], $_, $results[$i]{$_}) foreach sort keys %MODES;
			judge_after($some[$i], $lanes[$i]);
		}
	}
	return;
}

sub ack { return sprintf('{"stream":"T","seq":%s}', $_[0] // 1); }

sub random_bytes { my ($length) = @_; return join '', map { chr(int(rand 256)) } 1 .. $length; }

# The printable start of something.
sub shown { my ($bytes) = @_; return substr($bytes, 0, 40) =~ s/[^ -~]/?/gr . (length $bytes > 40 ? '...' : ''); }

# One of these for the first connection; a good server for those that follow.
sub only_first
{
	my ($bad) = @_;
	return sub { my ($peer, $command, $number) = @_; return $number == 1 ? $bad->($peer, $command) : $peer->reply($command, ack()); };
}

# ---- Before the greeting has ended

my $NO_CONNECTION = '58000';
srand($seed);
hostile("random bytes as greeting ($_)", $NO_CONNECTION, do { my $bytes = random_bytes(2 ** $_); sub { $_[0]->send($bytes); $_[0]->hold; } })
	foreach 0, 4, 9, 16;
hostile("the greeting '" . shown($_) . "', and no more", $NO_CONNECTION, do { my $bytes = $_; sub { $_[0]->send($bytes); $_[0]->hold; } })
	foreach "I", "INFO", 'INFO {"server_id":"x', "INFO {\"max_payload\":1}\r", "INFO$CRLF", "INFO {}$CRLF", "INFO null$CRLF", "INFO \0$CRLF", "\0" x 5000,
	"+OK$CRLF", "PING$CRLF", "PONG$CRLF", "MSG a 1 1${CRLF}x$CRLF", "HTTP/1.1 400 Bad Request$CRLF$CRLF", "SSH-2.0-x$CRLF", "\x15\x03\x01\x00\x02\x02\x28";
hostile("INFO with $_->[0]", $NO_CONNECTION, do { my $json = $_->[1]; sub { $_[0]->send("INFO $json$CRLF"); $_[0]->hold; } })
	foreach [ 'objects of a great depth', '{"a":' x 5000 . '1' . '}' x 5000 ], [ 'arrays of a great depth', '{"a":' . '[' x 15000 . ']' x 15000 . '}' ],
	[ '1 MB without end', '{"a":"' . 'x' x 1_000_000 ], [ 'invalid JSON', '{"server_id":,}' ], [ 'a number out of range', '{"max_payload":1e999,"port":-1e999}' ],
	[ 'fields of other types', '{"server_id":1,"version":{},"max_payload":[],"port":"x","headers":"","proto":null,"connect_urls":1}' ];
hostile('a greeting of INFO without end', $NO_CONNECTION, sub { my ($peer) = @_; 1 while $peer->send('INFO {"a":1}' . $CRLF); });
hostile('greetings of errors without end', $NO_CONNECTION, sub { my ($peer) = @_; $peer->send($peer->info_line); $peer->flood("-ERR 'x'$CRLF" x 1000); });
hostile('a PING for a PONG, without end', $NO_CONNECTION, sub { my ($peer) = @_; $peer->send($peer->info_line); $peer->flood("PING$CRLF" x 1000); });
hostile('authorization refused', '28000', sub { my ($peer) = @_; $peer->send($peer->info_line); $peer->next_command; $peer->send("-ERR 'Authorization Violation'$CRLF"); $peer->hold; });
hostile('too many connections', $NO_CONNECTION, sub { my ($peer) = @_; $peer->send("-ERR 'maximum connections exceeded'$CRLF"); });

# what stands in INFO and does not keep from publishing
hostile_answer("INFO with $_->[0]", $_->[2] // 'success', sub { $_[0]->reply($_[1], ack()); }, info => $_->[1])
	foreach [ '1,000 other servers', { connect_urls => '[' . join(',', ('"127.0.0.1:1"') x 1000) . ']' } ], [ 'strange other servers', { connect_urls => '["","nats://","a b","\u0000",1]' }, 'success|58000' ],
	[ 'invalid UTF-8', { server_name => qq("\xff\xc0\x80"), server_id => qq("\xfe"), client_ip => qq("\xed\xa0\x80"), version => qq("\xff") }, 'success|58000' ],
	[ 'a NUL', { server_name => '"a\u0000b"' }, 'success|58000' ], [ 'a nonce', { nonce => '"' . 'n' x 1000 . '"', auth_required => 'true' } ];

# ---- After it

my $LOST = '580[03]0';
foreach my $i (1 .. 20)
{
	my $bytes = random_bytes(2 ** ($i % 16));
	hostile_answer("random bytes ($i)", "$LOST|success", only_first(sub { $_[0]->send($bytes); }));
}
my @pieces = ('MSG', 'HMSG', 'PING', 'PONG', 'INFO', '+OK', '-ERR', ' ', ' ', ' ', $CRLF, $CRLF, $CRLF, "\n", "\r", "\0", '1', '0', '-1', '22', 'NATS/1.0 503', '{"stream":"T","seq":', '}', 'REPLY');
foreach my $i (1 .. 30)
{
	my @some = map { $pieces[ rand @pieces ] } 1 .. 200;
	hostile_answer("pieces of the protocol ($i)", "$LOST|success|42704|38000|40001",
		only_first(sub { my ($peer, $command) = @_; $peer->send(join '', map { $_ eq 'REPLY' ? $command->{reply} : $_ } @some); }));
}

# A reply with some of its bytes changed. What it then says may be an acknowledgment, and true.
sub spoilt
{
	my ($bytes) = @_;
	for (0 .. rand 4)
	{
		my $at = int(rand length $bytes);
		my $how = int(rand 4);
		if ($how == 0) { substr($bytes, $at, 1, chr(int(rand 256))); }
		elsif ($how == 1) { substr($bytes, $at, 1, ''); }
		elsif ($how == 2) { substr($bytes, $at, 0, substr($bytes, int(rand $at), 20)); }
		else { substr($bytes, $at, 1) ^= chr(1 << int(rand 8)); }
	}
	return $bytes;
}
foreach my $i (1 .. 40)
{
	hostile_answer("a spoilt acknowledgment ($i)", "$LOST|success|38000|42704",
		only_first(
			sub
			{
				my ($peer, $command) = @_;
				srand($seed + $i);
				$peer->send(spoilt($peer->reply_bytes($command, ack(), $i % 2 ? "${CRLF}A: b" : undef)));
			}));
}

# Messages with lengths that lie; that the connection goes is right for each of them, and so is to wait in vain.
foreach my $line (
	'MSG %s 1 9223372036854775808', 'MSG %s 1 18446744073709551638', 'MSG %s 1 4294967318', 'MSG %s 1 -22', 'MSG %s 1 +22', 'MSG %s 1 0x16', 'MSG %s 1 22.0', 'MSG %s 1 2e1', 'MSG %s 1 21',
	'MSG %s 1 23', 'MSG %s 1 67108864', 'MSG %s 1 999999999', 'HMSG %s 1 9223372036854775808 22', 'HMSG %s 1 -1 22', 'HMSG %s 1 23 22', 'HMSG %s 1 22 -22', 'HMSG %s x 1 23 22',
	'HMSG %s 1 18446744073709551615 22', "MSG %s\0 1 22", "MSG %s 1 22\0", "MSG %s 1\00022")
{
	hostile_answer('a lie: ' . shown($line), $LOST, sub { my ($peer, $command) = @_; $peer->send(sprintf($line, $command->{reply}) . $CRLF . ack() . $CRLF); });
	hostile_answer('and its end', $LOST, sub { my ($peer, $command) = @_; $peer->send(sprintf($line, $command->{reply}) . $CRLF . ack() . $CRLF); $peer->close; })
		if $line =~ /23$|67108864/;
}
hostile_answer('NUL in the body', '58030|38000', sub { $_[0]->reply($_[1], qq({"stream":"T\0","seq":1})); });
hostile_answer('NUL behind the body', '58030|38000', sub { $_[0]->reply($_[1], ack() . "\0"); });
hostile_answer('an INFO of 1 MB', 'success', sub { my ($peer, $command) = @_; $peer->send($peer->info_line(pad => '"' . 'x' x 1_000_000 . '"')); $peer->reply($command, ack()); });
hostile_answer('an INFO of a great depth', 'success', sub { my ($peer, $command) = @_; $peer->send('INFO ' . '[' x 500_000 . $CRLF); $peer->reply($command, ack()); });
hostile_answer('an INFO with a max_payload out of range', 'success|54000',
	sub { my ($peer, $command) = @_; $peer->send(qq(INFO {"max_payload":$_}$CRLF)) foreach '99999999999999999999', -1, '1e9', '"x"', ''; $peer->reply($command, ack()); });
hostile_answer('100,000 errors', 'success', sub { my ($peer, $command) = @_; $peer->send("-ERR '" . 'x' x 100 . "'$CRLF" x 1) foreach 1 .. 100_000; $peer->reply($command, ack()); });
hostile_answer('an error of 1 MB', "$LOST|success", sub { my ($peer, $command) = @_; $peer->send("-ERR '" . "\xff" x 1_000_000 . "'$CRLF"); $peer->reply($command, ack()); });
hostile_answer('100,000 PINGs', 'success', sub { my ($peer, $command) = @_; $peer->send("PING$CRLF" x 100_000); $peer->reply($command, ack()); });
hostile_answer('PINGs without end', $LOST, sub { $_[0]->flood("PING$CRLF" x 10000); });
hostile_answer('acknowledgments of others without end', $LOST, sub { my ($peer) = @_; $peer->flood($peer->reply_bytes('_INBOX.other.1', ack()) x 1000); });
# what it says is quoted when the connection is lost, also where its last character is cut
foreach my $words ("x\xff\xfey", 'x' x 254 . "\xc3\xa9" x 10)
{
	hostile_answer('an error of bytes that are no text', $LOST, sub { my ($peer) = @_; $peer->send("-ERR '$words'$CRLF"); $peer->close; });
}
hostile_answer('permission errors without end', $LOST, sub { $_[0]->flood(qq(-ERR 'Permissions Violation for Publish to "other"'$CRLF) x 1000); });

# ---- Acknowledgments that are lies

my $NO_ACK = '58030|38000|54001';
hostile_answer("the sequence $_", $NO_ACK, do { my $answer = ack($_); sub { $_[0]->reply($_[1], $answer); } })
	foreach 0, '-0', '-1', '-9223372036854775808', '9223372036854775808', '9999999999999999999', '18446744073709551615', '18446744073709551617', '1e300', '1e-300', '0.5', '+1', '0x1', 'true';
hostile_answer("no acknowledgment: '" . shown($_) . q('), $NO_ACK, do { my $answer = $_; sub { $_[0]->reply($_[1], $answer); } })
	foreach '{"stream":"","seq":1}', '{"stream":"\u0000","seq":1}', '{"stream":"T\u0000U","seq":1}', '{"stream":"\ud800","seq":1}', '{"Stream":"T","Seq":1}', '{"stream":["T"],"seq":[1]}', '[{"stream":"T","seq":1}]',
	'{"stream":"T","seq":1}{"stream":"T","seq":1}', '{"stream":"T","seq":1,}', '{stream:"T",seq:1}', "{'stream':'T','seq':1}", "{\"stream\":\"T\t\",\"seq\":1}", '/* */{"stream":"T","seq":1}', '{"error":null,"stream":"T","seq":0}',
	'{"a":"' . 'x' x 900_000, '[' x 900_000, '{"a":' . '[' x 450_000 . ']' x 450_000 . '}', '{"a":"' . "\xff" x 900_000 . '"}', '"' . '\u0041' x 150_000 . '"';
# Names that no stream has. To believe them is no lie about a message, but they must come as text.
hostile_answer("a stream name with $_->[0]", "$NO_ACK|success", do { my $answer = qq({"stream":"$_->[1]",) . ($_->[2] // '') . '"seq":1}'; sub { $_[0]->reply($_[1], $answer); } })
	foreach [ '1 MB', 'T' x 900_000 ], [ 'a control character', "T\x7f" ], [ 'escaped control characters', 'T\u0001\n' ], [ 'a lone byte', "T\xff" ], [ 'an overlong NUL', "T\xc0\x80" ], [ 'a surrogate', "T\xed\xa0\x80" ],
	[ 'an unfinished character', "T\xe2\x82" ], [ 'a code point out of range', "T\xf4\x90\x80\x80" ], [ '1 MB of bad bytes', "\xff" x 900_000 ], [ 'a domain of bad bytes', 'T', qq("domain":"\xff\xfe",) ],
	[ 'a domain of 1 MB', 'T', '"domain":"' . 'd' x 900_000 . '",' ], [ 'a domain with an escaped NUL', 'T', '"domain":"\u0000",' ];
hostile_answer("an error with $_->[0]", $_->[2] // '38000', do { my $answer = qq({"error":{"code":400,"err_code":1,"description":"$_->[1]"}}); sub { $_[0]->reply($_[1], $answer); } })
	foreach [ '1 MB', 'x' x 900_000 ], [ 'bad bytes', "\xff\xc0\x80", $NO_ACK ], [ 'control characters', '\u0001\u001b[31m\r\n' ], [ 'an unfinished character', "\xe2\x82", $NO_ACK ], [ 'emoji', "\xf0\x9f\x98\x80" ];

# Another stream than the expected one
hostile_answer("expected is T, stored is '" . shown($_) . q('), '40001', do { my $answer = qq({"stream":"$_","seq":1}); sub { $_[0]->reply($_[1], $answer); } }, arguments => q(, expect_stream => 'T'))
	foreach 'OTHER', 't', 'T ', ' T', 'TT', 'T' x 500_000, 'T\u0001', "T\x7f";
hostile_answer("expected is T, stored is '" . shown($_) . q('), "40001|$NO_ACK", do { my $answer = $_; sub { $_[0]->reply($_[1], $answer); } }, arguments => q(, expect_stream => 'T'))
	foreach '{"stream":"T","stream":"OTHER","seq":1}', '{"stream":"","seq":1}', '{"stream":"T\u0000","seq":1}', "{\"stream\":\"T\xff\",\"seq\":1}", '{"stream":"OTHER","seq":1,"duplicate":true}', '{"stream":"OTHER","domain":"T","seq":1}';
hostile_answer('expected is T, stored is T in escapes', 'success', sub { $_[0]->reply($_[1], '{"stream":"\u0054","seq":1}'); }, arguments => q(, expect_stream => 'T'));

# Somebody else's inbox, of the right form
hostile_answer('the inbox of another session', $LOST,
	sub { my ($peer, $command) = @_; my ($prefix, $secret, $token) = $command->{reply} =~ /^(.*\.)(\w+)\.(\w+)$/; $peer->reply($prefix . reverse($secret) . ".$token", ack()); });

run_cases();

# ---- An acknowledgment again, for a message that it is not about; of this session and of another one

{
	my $fake = FakeServer->answering(
		sub { my ($peer, $command) = @_; our $first //= $command; $peer->note($command->{reply}); $peer->reply($first, ack()); });
	# on another connection a second attempt would be the first message
	my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $fake->url, 'nats_publish.auto_msg_id' => 'off' });
	is($session->value(q(SELECT seq FROM nats_publish('t.a', 'x'))), '1', 'an acknowledgment');
	is($session->sqlstate(q(SET nats_publish.ack_timeout = '1s'; ) . q(SELECT seq FROM nats_publish('t.a', 'x'))), '58030', 'the same again is none for the next message');
	my $reply = $fake->next_event;
	my $other = FakeServer->answering(sub { $_[0]->reply($reply, ack()); });
	my $victim = PsqlSession->new($node, settings => { 'nats_publish.url' => $other->url, 'nats_publish.ack_timeout' => '1s' });
	is($victim->sqlstate(q(SELECT seq FROM nats_publish('t.a', 'x'))), '58030', 'nor for one of another session');
}

# ---- It closes at every point

# A server of which every second connection ends at the next of the points, as $at does it. Those between are good for
# one message, so that each message meets one point.
sub server_that_ends
{
	my ($at, @points) = @_;
	return FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return converse($peer, 1) if $number % 2 == 0;
			my $point = $points[ ($number - 1) / 2 ];
			if (defined $point)
			{
				$peer->note($point);
				$at->($peer, $point);
			}
			return converse($peer);
		});
}

# In several sessions at once, each with some of the points and all ways to publish.
sub ends_at_each
{
	my ($what, $points, $at) = @_;
	my (@fakes, @sessions, %count);
	foreach my $part (0 .. 3)
	{
		my @mine = grep { $_ % 4 == $part } 1 .. $points;
		$fakes[$part] = server_that_ends($at, @mine);
		$sessions[$part] = PsqlSession->new($node,
			settings => { 'nats_publish.url' => $fakes[$part]->url, map { ("nats_publish.${_}_timeout" => '10s') } qw(ack commit connect) });
		$sessions[$part]->begin(join '', map { sprintf("$_;\nROLLBACK;\n", 0, '') } (map { $MODES{$_} } sort keys %MODES) x (@mine / 2 + 1));
	}
	$count{$_}++ foreach map { $_->finish->{error} =~ /^ERROR:  (\w{5}):/mg } @sessions;
	note("$what: " . join(', ', map { "$_: $count{$_}" } sort keys %count));
	is(join(' ', grep { !/^(580[03]0|25P02)$/ } sort keys %count), '', "$what: each time a success or a lost connection");
	is_deeply([ map { $_->value(q(SELECT seq, pg_backend_pid() FROM nats_publish('t.a', 'x'))) } @sessions ], [ map { '1|' . $_->pid } @sessions ], 'the sessions go on');
	my %reached;
	foreach my $fake (@fakes) { while (defined(my $event = $fake->next_event(0.1))) { $reached{$event} = 1; } }
	is_deeply([ grep { !$reached{$_} } 1 .. $points ], [], 'all points were reached');
	return;
}

# All that a good server does for $count messages.
sub converse
{
	my ($peer, $count) = @_;
	$peer->handshake;
	while (my $command = $peer->next_command)
	{
		next if $command->{verb} ne 'PUB';
		$peer->reply($command, ack());
		return $peer->{sent} if defined $count && --$count == 0;
	}
	return;
}

my $length = do
{
	my $fake = FakeServer->new(sub { my ($peer) = @_; $peer->note(converse($peer, 1)); });
	my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $fake->url });
	$session->value(q(SELECT nats_publish('t.a', 'x')));
	$fake->next_event;
};
ends_at_each('closed behind each byte', $length, sub { my ($peer, $point) = @_; $peer->{limit} = $point; });

my @commands = qw(nothing CONNECT PING SUB PING PUB);
foreach my $how (qw(close abort))
{
	ends_at_each("$how behind each command", scalar @commands,
		sub
		{
			my ($peer, $point) = @_;
			$peer->send($peer->info_line);
			$peer->next_command foreach 2 .. $point;
			$peer->$how;
		});
}

# ---- What is sent for ever is not kept, and a cancel is heard

my %floods = (
	'acknowledgments for unknown tokens' => sub { my ($peer, $command) = @_; my ($inbox) = $command->{reply} =~ /^(.*\.)/; $peer->flood($peer->reply_bytes("${inbox}zzzzz", ack()) x 1000); },
	'PINGs' => sub { $_[0]->flood("PING$CRLF" x 10000); },
	'PINGs of one who does not read' => sub { $_[0]->flood("PING$CRLF" x 10000, 'deaf'); },
	'errors' => sub { $_[0]->flood("-ERR 'No'$CRLF" x 1000); });
{
	my (%fakes, %sessions, %before, %growth);
	foreach my $what (sort keys %floods)
	{
		$fakes{$what} = FakeServer->answering($floods{$what});
		$sessions{$what} = PsqlSession->new($node, settings => { 'nats_publish.ack_timeout' => '120s', 'nats_publish.url' => $nats->url });
		$sessions{$what}->value(q(SELECT nats_publish('t.a', 'x')));
		$before{$what} = process_memory($sessions{$what}->pid);
		$growth{$what} = 0;
	}
	$sessions{$_}->begin(q(SET nats_publish.url = ') . $fakes{$_}->url . q('; SELECT nats_publish('t.a', 'x'))) foreach keys %floods;
	my $end = time + $FLOOD_SECONDS;
	while (time < $end)
	{
		sleep 0.1;
		foreach my $what (keys %floods)
		{
			my $growth = process_memory($sessions{$what}->pid) - $before{$what};
			$growth{$what} = $growth if $growth > $growth{$what};
			# it has failed, and the machine's memory is not ours
			$fakes{$what}->stop if $growth > 10 * $GROWTH;
		}
	}
	foreach my $what (sort keys %floods)
	{
		cmp_ok($growth{$what}, '<', $GROWTH, "$what without end are not kept (kB)");
		ok($sessions{$what}->is_running, 'the call still waits');
		kill 'INT', $sessions{$what}->pid;
		is($sessions{$what}->finish($BOUND)->{sqlstate}, '57014', 'and hears a cancel');
		$fakes{$what}->stop;
		is($sessions{$what}->value(q(SET nats_publish.url = ') . $nats->url . q('; SELECT stream FROM nats_publish('t.a', 'x'))), 'T', 'and the session goes on');
	}
}

# ---- What the other functions show of the server is text, too

sub shows_text
{
	my ($what, $expected, $fake, @queries) = @_;
	my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $fake->url, 'nats_publish.ack_timeout' => '1s' });
	foreach my $sql (@queries)
	{
		my $result = $session->run($sql);
		like(outcome($result), qr/^($expected)$/, "$what: $sql");
		ok(is_utf8($result->{output} . $result->{error}), 'in valid text') or diag(($result->{output} . $result->{error}) =~ s/[^ -~\n]/?/gr);
	}
	is($session->value('SELECT pg_backend_pid()'), $session->pid, 'and the session goes on');
	return;
}

foreach my $bad ("\xff\xc0\x80", "\xed\xa0\x80", "\x01", '\u0000', '\ud800')
{
	my @fields = qw(server_name server_id version client_ip cluster);
	my $fake = FakeServer->answering(sub { $_[0]->reply($_[1], ack()); }, map { ($_ => qq("$_$bad")) } @fields);
	shows_text('a server called ' . ($bad =~ s/[^ -~]/?/gr), 'success|58000|38000', $fake, 'SELECT * FROM nats_server_info()');
	$fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			$peer->reply($command, sprintf('{"config":{"name":"%1$s"},"message":{"subject":"%1$s","seq":%2$s,"time":"2026-01-01T00:00:00Z%3$s","hdrs":"%4$s","data":"%5$s"}}',
				$command->{payload} =~ /"seq":2/ ? 'a' : $bad, $command->{payload} =~ /"seq":3/ ? -1 : 1, $command->{payload} =~ /"seq":4/ ? $bad : '',
				encode_base64("NATS/1.0${CRLF}A: $bad${CRLF}$bad: B$CRLF$CRLF", ''), encode_base64($bad, '')));
		});
	shows_text('what it answers', 'success|38000', $fake, q(SELECT nats_stream_info('T')), q(SELECT nats_jetstream('INFO')), q(SELECT nats_create_stream('T', '{t}')),
		map { "SELECT * FROM nats_get_message('T', $_)" } 1 .. 4);
}

# ---- A reply is received by whoever waits for another one, and is not his fault

my $DEEP = '{"a":' x 50_000;    # the parser throws
my $NO_ANSWER = qr/the reply is not an acknowledgment of JetStream/;
my $deep_for_bad = FakeServer->answering(sub { $_[0]->reply($_[1], $_[1]{payload} eq 'bad' ? $DEEP : ack()); });
my @deep_settings = ('nats_publish.url' => $deep_for_bad->url, map { ("nats_publish.${_}_timeout" => '10s') } qw(ack commit));
my %receivers = (
	nats_publish => q(SELECT nats_publish('t.a', 'x')),
	nats_publish_async => q(SELECT nats_publish_async('t.a', 'x')),
	'nats_publish_async with a full window' => q(SET LOCAL nats_publish.max_pending = 1; SELECT nats_publish_async('t.a', 'x')),
	nats_publish_on_commit => q(SELECT nats_publish_on_commit('t.a', 'x')),
	nats_await => q(SELECT nats_await(nats_publish_async('t.a', 'x'))),
	nats_flush => q(SELECT nats_flush()),
	nats_disconnect => q(SELECT nats_disconnect()),
	'a change of the server' => q(SET LOCAL nats_publish.inbox_prefix = '_PG'; SELECT nats_publish_async('t.a', 'x')),
	'a request' => q(SELECT nats_jetstream('INFO')),
	nats_server_info => q(SELECT nats_server_info()),
	'a savepoint' => q(SAVEPOINT s; SELECT nats_publish_async('t.a', 'x'); ROLLBACK TO s; SELECT nats_publish('t.a', 'x')));
foreach my $what (sort keys %receivers)
{
	my $session = PsqlSession->new($node, settings => {@deep_settings});
	my $transaction = "BEGIN; INSERT INTO t VALUES ('%s', -1); SELECT nats_publish_async('t.a', 'bad', critical => %s); $receivers{$what}; COMMIT";
	$session->value('TRUNCATE t');
	my $result = $session->run(sprintf("$transaction; SELECT nats_flush()", 'uncritical', 'false'));
	is($result->{sqlstate}, '', "a reply that can't be parsed, to a message that nobody waits for: $what") or diag $result->{error};
	like($result->{error}, qr/^WARNING:  58030: .*$NO_ANSWER/m, 'tells of it');
	$result = $session->run(sprintf($transaction, 'critical', 'true'));
	is($result->{sqlstate}, '58030', "and to one that the transaction waits for: $what") or diag $result->{error};
	like($result->{error}, $NO_ANSWER, 'says why');
	is($session->value(q(ROLLBACK; SELECT string_agg(mode, ' ') FROM t)), 'uncritical', 'what was committed');
	is($session->value(q(SELECT seq FROM nats_publish('t.a', 'x'))), '1', 'and the session goes on');
}

# A member of a batch
foreach my $bad (1, 3)
{
	my $fake = FakeServer->answering(
		sub
		{
			my ($peer, $command) = @_;
			my %member = %{ $command->{batch} };
			$peer->reply($command, $member{number} == $bad ? $DEEP : $member{commit} ? qq({"stream":"T","seq":3,"batch":"$member{id}","count":3}) : '');
		},
		version => '"2.12.0"');
	my $session = PsqlSession->new($node,
		settings => { @deep_settings, 'nats_publish.url' => $fake->url, 'nats_publish.commit_batch' => 'atomic' });
	my $result = $session->run(q(BEGIN; SELECT count(nats_publish_on_commit('t.a', i::text)) FROM generate_series(1, 3) i; COMMIT));
	is($result->{sqlstate}, $bad == 3 ? '58030' : '', "a reply that can't be parsed, to member $bad of 3") or diag $result->{error};
}

# ---- The next server does not tell what it knows

# The first connection is lost with a message that has a TTL, and with the last one. Of the others every second one is to
# ask for the version: these fail, up to this one.
sub server_of_few_words
{
	my ($last_bad) = @_;
	return FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return if $number % 2 == 0 && $number > 2 && $number <= $last_bad;
			$peer->handshake(version => '"2.12.0"');
			while (my $command = $peer->next_command)
			{
				next if $command->{verb} ne 'PUB';
				$peer->close if $number == 1 && $command->{payload} eq 'last';
				$peer->reply($command, ack()) if $number > 1;
			}
		});
}

my $ask_in_vain = qr/connection was lost before .*could not ask the NATS server for its features/;
my $in_vain = qr/as one batch: no acknowledgment arrived within 1000 ms/;
foreach my $case (
	[ 'once', 4, '', qr/^$/, q(nats_publish_async('t.a', 'last')) ], [ 'ever', 1e6, '58030', $ask_in_vain, q(nats_publish_async('t.a', 'last')) ],
	[ 'ever, to a batch', 1e6, '58030', $in_vain, q(nats_publish_on_commit('t.a', 'last')) ])
{
	my ($how, $last_bad, $expected, $text, $call) = @$case;
	my $fake = server_of_few_words($last_bad);
	my $session = PsqlSession->new($node,
		settings => { 'nats_publish.url' => $fake->url, 'nats_publish.commit_batch' => 'atomic', 'nats_publish.commit_timeout' => $expected ? '1s' : '30s' });
	my $result = $session->run(qq(BEGIN; SELECT nats_publish_async('t.a', 'x', ttl => '1 min', critical => false); SELECT $call; COMMIT));
	is($result->{sqlstate}, $expected, "a message may be stored, and the next server does not tell its version $how") or diag $result->{error};
	like($result->{error}, $text, 'what is told');
}

# While COMMIT waits for room another server takes over, which would ignore the TTL of the next message. Of the connections
# every second one asks for the version.
{
	my $fake = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			$peer->handshake(version => $number <= 2 ? '"2.12.0"' : '"2.10.0"');
			my $patience;
			while (my $command = $peer->next_command($patience))
			{
				next if $command->{verb} ne 'PUB';
				# it leaves when the next message has waited for room
				$patience = 1 if $number == 1;
				$peer->note("$number $command->{payload}");
				$peer->reply($command, ack()) if $number > 1;
			}
		});
	my $session = PsqlSession->new($node,
		settings => { 'nats_publish.url' => $fake->url, 'nats_publish.max_pending' => 1, map { ("nats_publish.${_}_timeout" => '30s') } qw(ack commit) });
	my $result = $session->run(q(SELECT nats_publish_async('t.a', 'first', ttl => '1 h', critical => false); SELECT nats_publish('t.a', 'second', ttl => '1 h')));
	is($result->{sqlstate}, '0A000', 'a message with a TTL has waited for room, and the next server does not support TTLs') or diag $result->{error};
	is($fake->next_event, '1 first', 'the first message');
	is($fake->next_event(1), undef, 'and no other one to the old server');
}

# ---- The connection ends with the last acknowledgment that COMMIT waits for, before it sends what is held

{
	my %held = (
		'a ttl' => q(nats_publish_on_commit('t.a', 'held', ttl => '1 h')),
		'a message over max_payload' => q(nats_publish_on_commit('t.a', repeat('x', 3000))));
	foreach my $what (sort keys %held)
	{
		my $fake = FakeServer->answering(
			sub
			{
				my ($peer, $command, $number) = @_;
				$peer->send($peer->reply_bytes($command, ack()) . ($number > 1 ? '' : $peer->info_line(max_payload => 2000) . "WHAT$CRLF"));
			},
			version => '"2.12.0"');
		my $session = PsqlSession->new($node, settings => { 'nats_publish.url' => $fake->url, 'nats_publish.commit_timeout' => '10s' });
		my $result = $session->run("BEGIN; SELECT $held{$what}; SELECT nats_publish_async('t.a', 'x'); COMMIT");
		is($result->{error}, '', "the connection ends before the server is asked about $what");
	}
}

# ---- There is no room in memory: what is not in the window must not go out, and what goes out must be known

# Runs a command in a backend that gets no more memory, and keeps what it has free for others.
sub without_memory
{
	my ($session, $sql) = @_;
	my $pid = $session->pid;
	my ($size) = slurp_file("/proc/$pid/status") =~ /^VmSize:\s+(\d+) kB/m;
	system_or_bail('prlimit', '--pid', $pid, '--as=' . $size * 1024 . ':');
	my $result = $session->run($sql);
	system_or_bail('prlimit', '--pid', $pid, '--as=unlimited:');
	return $result;
}

# It never answers the last message, and the others when that has come.
my $all_but_last = FakeServer->answering(
	sub
	{
		my ($peer, $command) = @_;
		$peer->{replies} .= $peer->reply_bytes($command, ack()) if $command->{payload} ne 'last';
		$peer->send(delete $peer->{replies}) if $command->{payload} eq 'last';
	});
$node->safe_psql('postgres', <<'END');
CREATE FUNCTION publish_and_roll_back(times int) RETURNS void LANGUAGE plpgsql AS $$BEGIN
	FOR i IN 1 .. times LOOP
		PERFORM nats_publish_async('t.a', 'x');
		BEGIN
			PERFORM nats_publish_async('t.a', 'x');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN
		END;
	END LOOP;
END$$;
END
# With the next message the window doubles, or what is kept of rolled-back savepoints.
foreach my $case (
	[ 'the window', q(SELECT count(nats_publish_async('t.a', 'x')) FROM generate_series(1, 65536)) ],
	[ 'rolled-back savepoints', q(SELECT publish_and_roll_back(65535); SELECT nats_publish_async('t.a', 'x')) ])
{
	my ($what, $sql) = @$case;
	my $session = PsqlSession->new($node,
		settings => { 'nats_publish.url' => $all_but_last->url, 'nats_publish.max_pending' => 200_000, 'nats_publish.commit_timeout' => '3s' });
	$session->value("BEGIN; $sql; SAVEPOINT s");
	is(without_memory($session, q(SELECT nats_publish_async('t.a', 'no room')))->{sqlstate}, '53200', "no memory for $what");
	$session->value('ROLLBACK TO s; SELECT publish_and_roll_back(5000)');
	my $result = $session->run(q(SELECT nats_publish_async('t.a', 'last'); COMMIT));
	is($result->{sqlstate}, '58030', 'COMMIT fails without the last acknowledgment') or diag $result->{error};
}

# ---- There is no room on disk for what became of the messages: whoever receives that gets the error

# It answers when it has all messages.
my $last_first = FakeServer->answering(
	sub
	{
		my ($peer, $command) = @_;
		$peer->{replies} .= $peer->reply_bytes($command, ack());
		$peer->send(delete $peer->{replies}) if $command->{payload} eq 'last';
	});

# Of a transaction that has not ended; what is told of its last flush.
sub fill_ledger
{
	my ($session, $critical) = @_;
	$session->value(qq(BEGIN; INSERT INTO t VALUES ('full', -1);
		SELECT count(nats_publish_async('t.a', 'x', critical => $critical)) FROM (SELECT generate_series(1, 1000)) AS s; SAVEPOINT s));
	return $session->sqlstate(qq(SELECT nats_publish_async('t.a', 'last', critical => $critical); SELECT nats_flush()));
}

my @small = (work_mem => '64kB', temp_file_limit => '16kB', 'nats_publish.url' => $last_first->url,
	map { ("nats_publish.${_}_timeout" => '60s') } qw(ack commit));
foreach my $sql ('SELECT count(*) FROM nats_futures()', 'SELECT nats_await(1)', 'SELECT nats_flush()', 'COMMIT')
{
	my $session = PsqlSession->new($node, settings => {@small});
	is(fill_ledger($session, 'true'), '53400', 'there is no room for what became of the messages');
	my $result = $session->run("ROLLBACK TO s; SET LOCAL temp_file_limit = -1; $sql");
	# COMMIT also tells of those that were sent
	is($result->{sqlstate}, $sql eq 'COMMIT' ? '58030' : '53000', "a savepoint does not hide it from $sql") or diag $result->{error};
	is($session->value(q(ROLLBACK; SELECT count(*) FROM t WHERE mode = 'full')), '0', 'nor is it committed');
	is($session->value(q(SELECT seq FROM nats_publish('t.a', 'last'))), '1', 'the session goes on');
}
{
	# the acknowledgments of the others have been read, and are not handled yet
	my $session = PsqlSession->new($node, settings => {@small});
	is(fill_ledger($session, 'false'), '53400', 'the same with messages that nobody waits for');
	my $result = $session->run('ROLLBACK; SELECT nats_flush()');
	is($result->{error}, '', 'the next transaction does not wait for one of them in vain');
	cmp_ok($result->{seconds}, '<', 30, 'nor for long');
}

is($node->safe_psql('postgres', q(SELECT pg_postmaster_start_time() < now())), 't', 'PostgreSQL lives');
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP|server process|: XX\d\d\d:/, 'and no backend has crashed');

done_testing();
