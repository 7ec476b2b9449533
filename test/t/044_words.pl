# What errors and the doctor say: SQLSTATEs and HINTs that help, JetStream that is not there, databases in other encodings, and
# streams that the account's own JetStream does not see.

use strict;
use warnings FATAL => 'all';
use utf8;

use Encode qw(encode_utf8);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use Documentation ();
use FakeServer;
use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;

plan skip_all => 'NATS_SERVER_NEW does not name a newer nats-server' unless $ENV{NATS_SERVER_NEW};

my $NEW = $ENV{NATS_SERVER_NEW};
my $CHECKS = () = Documentation::checks();
my ($nats, $client) = nats_with_stream('T', ['t.>']);
# A trace is known from 2.11 on; a system may have such a server only.
my @kinds = $client->info->{version} =~ /^2\.(\d+)/ && $1 < 11 ? ('old', 'new') : ('new');
my $node = relay_node('main', 'nats_publish.url' => $nats->url, 'nats_publish.ack_timeout' => '60s', 'nats_publish.commit_timeout' => '60s');

sub session_at { my ($url, %settings) = @_; return publishing_session($node, url => $url, %settings); }

# An ERROR: its SQLSTATE, its message, and its HINT, undef for none
sub raises
{
	my ($session, $sql, @expected) = @_;
	$session->begin($sql);
	return has_raised($session, @expected);
}

# The same of what is running
sub has_raised
{
	my ($session, $sqlstate, $message, $hint, $what) = @_;
	my $result = $session->finish;
	$session->run('ROLLBACK');
	is($result->{sqlstate}, $sqlstate, "$what: SQLSTATE") or diag $result->{error};
	my ($text) = $result->{error} =~ /^ERROR:  \w{5}: (.*)/m;
	like($text // '', $message, "$what: message");
	my ($found) = $result->{error} =~ /^HINT:  (.*)/m;
	if (defined $hint) { like($found // '', $hint, "$what: HINT"); }
	else { is($found, undef, "$what: no HINT"); }
	return $result;
}

# ---- What is not known, and what was only asked

my $SAME_ID = qr/^Publish it again with the same msg_id: JetStream then stores it once\.$/;
my $OTHER_ID = qr/^Publish it again, and it may be stored twice. With a msg_id of your own, the same one each time, it is stored once\.$/;

# A server that answers PING, and never what is published. All wait for it at once, so that they can wait for long: it has a
# quarter of that for its PONG.
{
	my $silent = FakeServer->answering(sub { return; });
	my %settings = (ack_timeout => '8s', commit_timeout => '8s');
	my $session = session_at($silent->url, %settings);
	$session->value('CREATE TABLE automatic (id int PRIMARY KEY, a text); CREATE TABLE own (id int PRIMARY KEY)');
	$session->value("SELECT nats_publish_table('automatic', 't.{id}'), nats_publish_table('own', 't.{id}', msg_id => 'own-{id}')" . ' \\g /dev/null');
	my $NO_ACK = qr/^could not publish to "t\.\w+": no acknowledgment arrived within 8000 ms$/;
	my %sql = (
		q(SELECT nats_publish('t.a', 'x')) => $OTHER_ID,
		q(SELECT nats_publish('t.a', 'x', msg_id => 'a')) => $SAME_ID,
		q(SELECT nats_publish('t.a', 'x', headers => '{"Nats-Msg-Id": "a"}')) => $SAME_ID,
		q(SET nats_publish.auto_msg_id = off; SELECT nats_publish('t.a', 'x'); RESET nats_publish.auto_msg_id) => $OTHER_ID,
		q(BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null
			COMMIT) => $OTHER_ID,
		q(BEGIN; SELECT nats_publish_async('t.a', 'x', msg_id => 'a') \g /dev/null
			COMMIT) => $SAME_ID,
		q(BEGIN; SELECT nats_publish_on_commit('t.a', 'x') \g /dev/null
			COMMIT) => $OTHER_ID,
		q(BEGIN; SELECT nats_publish_on_commit('t.a', 'x', msg_id => 'a') \g /dev/null
			COMMIT) => $SAME_ID,
		q(INSERT INTO automatic VALUES (1, 'x')) => $OTHER_ID,
		q(INSERT INTO own VALUES (1)) => $SAME_ID);
	my @cases = map { [ $_, '58030', $NO_ACK, $sql{$_}, s/\s+/ /gr ] } sort keys %sql;
	push @cases, [ q(BEGIN; SELECT nats_publish_async('t.a', 'x', msg_id => 'a'), nats_publish_async('t.b', 'x') \g /dev/null
		COMMIT), '58030', qr/^could not publish 2 messages/, undef, 'one of each kind' ];
	push @cases, [ q(BEGIN; SELECT nats_publish_async('t.a', 'x', msg_id => 'a'), nats_publish_async('t.b', 'x', msg_id => 'b') \g /dev/null
		COMMIT), '58030', qr/^could not publish 2 messages/, $SAME_ID, 'two of a kind' ];

	# nothing was published: nothing may be stored
	push @cases, [ "SELECT $_", '58000', qr/^JetStream request "\$JS\.API\.\S+" failed: no answer within 8000 ms$/, undef, $_ ]
		foreach q(nats_stream_info('T')), q(nats_get_message('T', 1)), q(nats_jetstream('INFO')), q(nats_create_stream('U', '{u.>}'));

	# the window is full: of the next message it is known that it was not sent
	push @cases, [ q(SET nats_publish.max_pending = 1; BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null
		SELECT nats_publish_async('t.b', 'x')), '58000', qr/^could not publish to "t\.b": 1 earlier message is not acknowledged/, undef, 'no room' ];
	my @sessions = map { session_at($silent->url, %settings) } @cases;
	$sessions[$_]->begin($cases[$_][0]) foreach 0 .. $#cases;

	# these have a limit of their own
	raises($session, q(BEGIN; SELECT nats_publish_async('t.a', 'x') AS future \gset
		SELECT nats_await(:future, '100ms')), '58030', qr/in time$/, qr/^You can wait again for what is pending\.$/, 'nats_await()');
	raises($session, q(BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null
		SELECT nats_flush('100ms')), '58030', qr/^1 message was not acknowledged in time$/, qr/^You can wait again/, 'nats_flush()');

	has_raised($sessions[$_], @{ $cases[$_] }[ 1 .. 4 ]) foreach 0 .. $#cases;
	$node->safe_psql('postgres', 'DROP TABLE automatic, own');
}

# A connection that is lost while an answer is waited for
{
	my $leaves = FakeServer->answering(sub { $_[0]->close; return; });
	my $session = session_at($leaves->url, ack_timeout => '2s');
	raises($session, q(SELECT nats_stream_info('T')), '58000', qr/failed: the connection was lost before an answer arrived/, undef, 'a lost connection');
	$session->value('SET nats_publish.auto_msg_id = off');
	raises($session, q(SELECT nats_publish('t.a', 'x')), '58030', qr/it has no id/, $OTHER_ID, 'a lost connection, and no id');
}

# ---- JetStream is not there

my $OFF = qr/JetStream is not switched on at the NATS server/;
my $SWITCH_ON = qr{^Switch JetStream on: put jetstream \{ store_dir: "/var/lib/nats" \} into the server's configuration and restart it, or start it with nats-server -js\.$};

sub without_jetstream
{
	my ($url, $what, $sqlstate, $clause, $hint) = @_;
	my $session = session_at($url);
	my $publishing = qr/^could not publish to "t\.a": $clause$/;
	raises($session, q(SELECT nats_publish('t.a', 'x')), $sqlstate, $publishing, $hint, "$what: nats_publish()");
	raises($session, q(BEGIN; SELECT nats_publish_async('t.a', 'x') \g /dev/null
		COMMIT), $sqlstate, $publishing, $hint, "$what: COMMIT of nats_publish_async()");
	raises($session, q(BEGIN; SELECT nats_publish_on_commit('t.a', 'x') \g /dev/null
		COMMIT), $sqlstate, $publishing, $hint, "$what: COMMIT of nats_publish_on_commit()");
	raises($session, q(BEGIN; SELECT nats_publish_async('t.a', 'x') AS future \gset
		SELECT nats_await(:future)), $sqlstate, $publishing, $hint, "$what: nats_await()");
	my $warning = $session->run(q(SELECT nats_publish_async('t.a', 'x', critical => false) \g /dev/null
		SELECT nats_flush() \g /dev/null
		SELECT 1));
	like($warning->{error}, qr/^WARNING:  $sqlstate: could not publish to "t\.a": $clause$/m, "$what: the WARNING of an uncritical one");
	return $session;
}

foreach my $binary (undef, $NEW)
{
	my $name = $binary ? 'new' : 'old';
	my $plain = NatsServer->new(name => "plain_$name", binary => $binary)->start;
	my $session = without_jetstream($plain->url, "JetStream is off, $name server", '0A000', $OFF, $SWITCH_ON);
	raises($session, "SELECT $_", '0A000', qr/^JetStream request "\$JS\.API\.\S+" failed: $OFF$/, $SWITCH_ON, "$name server: $_")
		foreach q(nats_create_stream('U', '{t.>}')), q(nats_stream_info('U')), q(nats_get_message('U', 1)), q(nats_jetstream('INFO'));
	raises(session_at($plain->url, commit_batch => 'atomic'), q(BEGIN; SELECT nats_publish_on_commit('t.a', 'x') \g /dev/null
		COMMIT), '0A000', qr/as one batch: $OFF$/, $SWITCH_ON, 'an atomic commit') if $binary;

	# the relay
	next unless $binary;
	my $observer = PsqlSession->new($node);
	reconfigure($node, 'nats_publish.url' => $plain->url);
	$observer->value(q(SELECT nats_publish_outbox('t.off', 'x') \g /dev/null));
	wait_for('the relay to tell', sub { relay_column($observer, 'last_error') =~ $OFF });
	like($observer->value(q(SELECT sqlstate || ' ' || error FROM (SELECT (regexp_match(last_error, '^(\w{5}): (.*)$'))[1] AS sqlstate,
		last_error AS error FROM nats_outbox) o)), qr/JetStream is not switched on/, 'and the row');
	reconfigure($node, 'nats_publish.url' => $nats->url);
	wait_until_drained($observer);
	is($client->stream_info('T')->{state}{last_seq}, 1, 'the row is published when JetStream is there');
}

# A leaf node without it: its stream is elsewhere, or nowhere
my $leaf_port = free_port();
my $hub = NatsServer->new(name => 'hub', jetstream => 1, config => qq(leafnodes { listen: "127.0.0.1:$leaf_port" }), binary => $NEW)->start;
NatsClient->new(url => $hub->url)->create_stream('HUB', ['hub.>']);
my %leaf = map { $_ => NatsServer->new(name => "leaf_$_", config => qq(leafnodes { remotes: [ { url: "nats://127.0.0.1:$leaf_port" } ] }),
	binary => $_ eq 'new' ? $NEW : undef)->start } 'old', 'new';
foreach my $name ('old', 'new')
{
	my $session = session_at($leaf{$name}->url);
	wait_for('the leaf node', sub { $session->sqlstate(q(SELECT nats_publish('hub.a', 'x'))) eq '' });
	raises($session, q(SELECT nats_publish('none.a', 'x')), '42704',
		qr/: no stream takes this subject, and JetStream is not switched on at the NATS server$/, qr/^Create a stream on a server connected with it/, "a leaf node, $name");
}

# Accounts: one without JetStream, one that imports from another, a user who may not ask
my $ACCOUNTS = <<'END';
accounts {
  HUB: { jetstream: enabled, users: [ { user: hub, password: hub } ], exports: [ { service: "orders.>" } ] }
  APP: { users: [ { user: app, password: app } ], imports: [ { service: { account: HUB, subject: "orders.>" } } ] }
  MAP: { jetstream: enabled, mappings: { "m.a": "s.a", "m.nowhere": "nowhere" }, users: [ { user: map, password: map }
    { user: shy, password: shy, permissions: { publish: ["s.>", "none.>"], subscribe: ["_INBOX.>"] } } ] }
}
END
my %accounts = (
	old => NatsServer->new(name => 'accounts_old', jetstream => 1, config => $ACCOUNTS)->start,
	new => NatsServer->new(name => 'accounts_new', jetstream => 1, config => $ACCOUNTS, binary => $NEW)->start);
sub url_of { my ($server, $user) = @_; return "nats://$user:$user\@127.0.0.1:" . $accounts{$server}->port; }
my %admin;
foreach my $name ('old', 'new')
{
	my %streams = (hub => [ 'ORDERS', ['orders.>'] ], map => [ 'S', ['s.>'] ]);
	foreach my $user (sort keys %streams)
	{
		$admin{$name}{$user} = NatsClient->new(url => $accounts{$name}->url, user => $user, pass => $user);
		$admin{$name}{$user}->create_stream(@{ $streams{$user} }, storage => 'file');
	}
	without_jetstream(url_of($name, 'app'), "an account without, $name", '42704',
		qr/no stream takes this subject, and the account of the NATS user has no JetStream/, qr/^Switch JetStream on for the account: put jetstream: enabled/);
	raises(session_at(url_of($name, 'app')), q(SELECT nats_create_stream('U', '{t.>}')), '0A000', qr/JetStream not enabled for account/,
		qr/^Switch JetStream on for the account/, "nats_create_stream() without, $name");
}
raises(session_at(url_of('old', 'shy')), q(SELECT nats_publish('s.a', 'x') \g /dev/null
	SELECT nats_publish('none.a', 'x')), '42704', qr/: no stream takes this subject$/, qr/^Create a stream for it with nats_create_stream\(\)\.$/, 'a user who may not ask');

# What can't be found out does not hide the error
{
	my $answers = sub { my ($peer, $command) = @_; $peer->reply($command, '', ' 503') if $command->{subject} ne '$JS.API.INFO'; return; };
	my $silent = FakeServer->answering($answers);
	my $NONE = qr/no stream takes this subject$/;
	raises(session_at($silent->url), q(SELECT nats_publish('t.a', 'x')), '42704', $NONE, qr/^Create a stream/, 'JetStream is silent');
	my $busy = FakeServer->new(
		sub
		{
			my ($peer, $number) = @_;
			return $peer->hold if $number > 1;
			$peer->handshake(jetstream => 'false');
			while (my $command = $peer->next_command) { $peer->reply($command, '', ' 503') if $command->{verb} eq 'PUB'; }
			return;
		});
	raises(session_at($busy->url), q(SELECT nats_publish('t.a', 'x')), '42704', $NONE, qr/^Create a stream/, 'the server does not greet again');
}

# JetStream is switched on: the next error knows
{
	my $switched = NatsServer->new(name => 'switched', binary => $NEW)->start;
	my $session = session_at($switched->url);
	raises($session, q(SELECT nats_publish('t.a', 'x')), '0A000', $OFF, $SWITCH_ON, 'before it is switched on');
	$switched->set_config('jetstream { store_dir: "' . $switched->store_dir . '" }', reload => 1);
	wait_for('JetStream', sub { $session->sqlstate(q(SELECT nats_jetstream('INFO'))) eq '' });
	raises($session, q(SELECT nats_publish('t.a', 'x')), '42704', qr/no stream takes this subject$/, qr/^Create a stream/, 'after');
}

# A window that fills while it is found out why nobody takes its first message
{
	my $session = session_at($nats->url, max_pending => 10);
	my $result = $session->run(q(BEGIN; SELECT count(nats_publish_async(CASE WHEN i = 1 THEN 'none.a' ELSE 't.w' END, i::text)) FROM generate_series(1, 500) i; COMMIT));
	is($result->{sqlstate}, '42704', 'COMMIT fails for the first message');
	like($result->{error}, qr/499 stored, 1 failed, 0 not sent/, 'the others are stored');
}

# ---- Other encodings

# Characters that a database has; others are question marks.
my %SHOWN = (
	SQL_ASCII => { "\x{dc}" => "\x{dc}" },
	UTF8 => { "\x{1f600}" => "\x{1f600}" },
	LATIN1 => { "\x{dc}" => "\x{dc}", "\x{3042}" => '?' },
	EUC_JP => { "\x{3042}" => "\x{3042}", "\x{1f600}" => '?' });

sub escaped { my ($text) = @_; return join '', map { sprintf '\\u%04x', $_ } unpack 'n*', Encode::encode('UTF-16BE', $text); }
sub in_database { my ($encoding, $url, %settings) = @_; return PsqlSession->new($node, dbname => lc $encoding, settings => {
	'nats_publish.url' => $url, ($encoding eq 'SQL_ASCII' ? () : (client_encoding => 'UTF8')), map { ("nats_publish.$_" => $settings{$_}) } keys %settings }); }

foreach my $encoding (sort keys %SHOWN)
{
	publishing_database($node, lc $encoding, $encoding);
	foreach my $character (sort keys %{ $SHOWN{$encoding} })
	{
		my $shown = encode_utf8($SHOWN{$encoding}{$character});
		foreach my $form ('as it is', 'escaped')
		{
			my $what = sprintf '%s, U+%X %s', $encoding, ord $character, $form;
			my $name = 'S' . ($form eq 'escaped' ? escaped($character) : encode_utf8($character));
			my $config = qq({"config":{"name":"$name","description":"$name"},"state":{"messages":1},"streams":["$name"],"total":1});
			my $fake = FakeServer->answering(
				sub
				{
					my ($peer, $command) = @_;
					$peer->reply($command, qq({"stream":"$name","seq":7})) if $command->{subject} eq 't.ack';
					$peer->reply($command, qq({"error":{"code":400,"err_code":10060,"description":"$name"},"stream":"$name"})) if $command->{subject} eq 't.no';
					$peer->reply($command, qq({"message":{"subject":"$name","seq":1,"time":"2026-01-01T00:00:00Z","data":"eA=="}})) if $command->{subject} =~ /MSG\.GET/;
					$peer->reply($command, $config) if $command->{subject} =~ /^\$(JS|SYS)/;
					return;
				},
				server_name => qq("$name"));
			my $session = in_database($encoding, $fake->url);
			is($session->value(q(SELECT (nats_publish('t.ack', 'x')).stream)), "S$shown", "$what: nats_publish()");
			is($session->value(q(BEGIN; SELECT nats_publish_async('t.ack', 'x') AS future \gset
				SELECT stream FROM nats_await(:future); COMMIT)), "S$shown", "$what: nats_await()");
			like($session->run(q(SELECT nats_publish('t.no', 'x')))->{error}, qr/^ERROR:  40001: could not publish to "t\.no": \QS$shown\E \(/, "$what: a refusal");
			is($session->value(q(SELECT nats_stream_info('S') #>> '{config,name}')), "S$shown", "$what: nats_stream_info()");
			is($session->value(q(SELECT subject FROM nats_get_message('S', 1))), "S$shown", "$what: nats_get_message()");
			is($session->value(q(SELECT server_name FROM nats_server_info())), "S$shown", "$what: nats_server_info()");
			my $rows = $session->value(q(SELECT count(*), max(detail) FILTER (WHERE check_name = 'stream') FROM nats_check('t.no', true)));
			like($rows, qr/^$CHECKS\|"\QS$shown\E" .*"\QS$shown\E" takes the probe/, "$what: nats_check()") unless $shown eq '?';
			like($rows, qr/^$CHECKS\|/, "$what: nats_check() has its rows");
			next if $shown eq '?';
			is($session->value(encode_utf8("SELECT (nats_publish('t.ack', 'x', expect_stream => 'S$character')).seq")), '7', "$what: expect_stream");
		}
	}
	# what no text can have is in no acknowledgment
	foreach my $character ('\\u0000', '\\ud800', '\\ude00', '\\ud800\\u0041')
	{
		my $odd = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, qq({"stream":"a${character}b","seq":7})); return; });
		my $session = in_database($encoding, $odd->url);
		is($session->sqlstate(q(SELECT (nats_publish('t.a', 'x')).stream)), '58030', "$encoding: $character");
		is($session->sqlstate(q(SELECT nats_jetstream('X') ->> 'stream')), '38000', 'in a reply, too');
	}
	# nor is a credential told in an error
	if ($encoding eq 'SQL_ASCII')
	{
		my $session = in_database($encoding, $nats->url);
		$session->value(qq(CREATE SERVER odd FOREIGN DATA WRAPPER nats OPTIONS (url '${\ $nats->url}'); CREATE USER MAPPING FOR CURRENT_USER SERVER odd OPTIONS (user 'a', password E'secret\\xfe')));
		my $error = $session->run(q(SET nats_publish.server = 'odd'; SELECT nats_publish('t.a', 'x')))->{error};
		like($error, qr/could not convert password to UTF-8/, "$encoding: a password that is not UTF-8");
		unlike($error, qr/secret|fe/i, '... of which the error tells nothing');
	}
	my $odd = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, '{"stream":"a\\\\u00e4","seq":7}'); return; });
	is(in_database($encoding, $odd->url)->value(q(SELECT (nats_publish('t.a', 'x')).stream)), 'a\\u00e4', "$encoding: an escaped backslash");
	is(in_database($encoding, $nats->url)->value(q(SELECT (nats_publish('t.a', 'x')).stream, count(*) FROM nats_check('t.a', true))), "T|$CHECKS", "$encoding: a real server");
}

# ---- The doctor and streams of others

sub doctor
{
	my ($url, $arguments, %settings) = @_;
	my @rows = map { [ split /\|/, $_, 3 ] } split /\n/, session_at($url, %settings)->value("SELECT check_name, status, detail FROM nats_check($arguments)");
	return { map { $_->[0] => { status => $_->[1], detail => $_->[2] } } @rows };
}

sub finds
{
	my ($rows, $name, $status, $detail, $what) = @_;
	is($rows->{$name}{status}, $status, "$what: $name") or diag $rows->{$name}{detail};
	like($rows->{$name}{detail}, $detail, "$what: $name says why");
	return;
}

sub none_failed
{
	my ($rows, $what) = @_;
	my @failed = grep { $rows->{$_}{status} eq 'failed' } sort keys %$rows;
	is_deeply(\@failed, [], "$what: nothing has failed") or diag join "\n", map { "$_: $rows->{$_}{detail}" } @failed;
	return;
}

# Publishing works: nothing has failed, whether one asks for a probe or not; with one, the stream is known. A server that knows
# traces need not be asked for one, unless the account that exports the subject does not allow them.
sub works
{
	my ($name, $url, $subject, $stream, $what, %args) = @_;
	my $session = session_at($url);
	my $knows = $name eq 'new' && !$args{cut};
	is($session->sqlstate("SELECT nats_publish('$subject', 'x')"), '', "$what: it is published");
	my $rows = doctor($url, "'$subject'");
	none_failed($rows, $what);
	if ($knows) { finds($rows, 'stream', 'ok', qr/^"$stream" takes the subject\./, "$what, traced"); }
	else { finds($rows, 'stream', 'unknown', qr/With probe => true, nats_check\(\) asks who takes it\.$/, $what); }
	$rows = doctor($url, "'$subject', true");
	none_failed($rows, "$what, with a probe");
	finds($rows, 'stream', 'ok', qr/^"$stream" takes the subject\..*"$stream" takes the probe\./, "$what, with a probe");
	unlike($rows->{jetstream}{status}, qr/failed|warning/, "$what: jetstream");
	if ($args{known} && $name eq 'new') { finds($rows, 'storage', 'ok', qr/files/, $what); }
	else { finds($rows, 'storage', 'unknown', qr/"$stream" is (on a server behind|reached by a mapping)/, $what); }
	my $explained = $session->value("SELECT value FROM nats_explain('$subject', 'x') WHERE item = 'stream'");
	like($explained, $knows ? qr/^$stream$/ : qr/^unknown: /, "$what: nats_explain()");
	return;
}

foreach my $name (@kinds)
{
	works($name, url_of($name, 'app'), 'orders.a', 'ORDERS', "an import, $name", cut => 1);
	works($name, url_of($name, 'map'), 'm.a', 'S', "a mapping, $name", known => 1);
	works($name, $leaf{$name}->url, 'hub.a', 'HUB', "a leaf node, $name");
	my $rows = doctor(url_of($name, 'app'), q('orders.a'));
	finds($rows, 'jetstream', 'unknown', qr/^The server has JetStream, the account does not: .*nats_check\(subject, probe => true\) tells/, "an import, $name, without a probe");
	$rows = doctor(url_of($name, 'app'), q('orders.a', true));
	finds($rows, 'jetstream', 'ok', qr/^The server has JetStream, the account does not: .*A stream takes the subject all the same\.$/, "an import, $name, with a probe");
	$rows = doctor(url_of($name, 'app'), q('nobody.a', true));
	finds($rows, $_, 'failed', qr/Switch JetStream on for the account/, "no import, $name") foreach qw(jetstream stream);
	$rows = doctor(url_of($name, 'shy'), q('s.a', true));
	none_failed($rows, "a user who may not ask, $name");
	like($rows->{stream}{detail}, qr/"S" takes the probe/, 'but may publish');
	$rows = doctor(url_of($name, 'map'), q('m.nowhere', true));
	finds($rows, 'stream', 'failed', qr/Nobody takes the probe\. Create a stream/, "a mapping to nowhere, $name");
}

# Two domains: the stream is in the other one
{
	my $port = free_port();
	my $far = NatsServer->new(name => 'far', binary => $NEW, config => qq(jetstream { domain: far, store_dir: "@{[ PostgreSQL::Test::Utils::tempdir('far') ]}" }
leafnodes { listen: "127.0.0.1:$port" }))->start;
	my $near = NatsServer->new(name => 'near', binary => $NEW, config => qq(jetstream { domain: near, store_dir: "@{[ PostgreSQL::Test::Utils::tempdir('near') ]}" }
leafnodes { remotes: [ { url: "nats://127.0.0.1:$port" } ] }))->start;
	NatsClient->new(url => $far->url)->create_stream('FAR', ['far.>']);
	my $session = session_at($near->url);
	wait_for('the leaf node', sub { $session->sqlstate(q(SELECT nats_publish('far.a', 'x'))) eq '' });
	works('new', $near->url, 'far.a', 'FAR', 'another domain');
}

# ---- What others see of a probe

foreach my $name (@kinds)
{
	my $admin = $admin{$name}{map};
	$admin->subscribe('s.>');
	my $before = $admin->stream_info('S')->{state}{last_seq};
	my $session = session_at(url_of($name, 'map'));
	like($session->value(q(SELECT detail FROM nats_check('s.seen', true) WHERE check_name = 'stream')),
		$name eq 'new' ? qr/"S" takes the probe\. It would also go to 1 subscriber, / : qr/"S" takes the probe\.$/, "$name: a subscriber");
	is($session->value(q(SELECT value FROM nats_explain('s.seen', 'x') WHERE item = 'subscribers')), $name eq 'new' ? '1' : '', "$name: nats_explain()");
	is($admin->stream_info('S')->{state}{last_seq}, $before, "$name: nothing is stored");
	$admin->publish('s.end', 'x');
	$admin->flush;
	my @seen = ($admin->next_message(30)->{subject});
	push @seen, $admin->next_message(30)->{subject} if $seen[0] ne 's.end';
	is("@seen", $name eq 'new' ? 's.end' : 's.seen s.end', "$name: what the subscriber has seen");
}

# A trace that is lost, or is nonsense, is no answer
foreach my $trace ('', '{}', '[]', '{"events":[null,1,{},{"type":1},{"type":"js"},{"type":"eg","hop":{}}]}', '{"events":[{"type":"in"},{"type":"js","stream":"' . 'S' x 1000 . '"}],"request":[]}', "\xff")
{
	my $fake = FakeServer->answering(sub { my ($peer, $command) = @_; $peer->reply($command, $trace); return; }, version => '"2.11.0"');
	my $session = session_at($fake->url, ack_timeout => '300ms');
	is($session->value(q(SELECT count(*) FROM nats_check('t.a', true))), $CHECKS, "the trace '" . substr($trace, 0, 60) . q('));
	is($session->value(q(SELECT count(*) > 8 FROM nats_explain('t.a', 'x'))), 't', 'nats_explain()');
}

done_testing();
