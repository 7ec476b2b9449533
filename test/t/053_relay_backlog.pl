
# In order, a subject's messages go one by one: however many of them wait, and however far away the server is, they hold
# up those of no other subject.
use strict;
use warnings FATAL => 'all';

use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

use NatsClient;
use NatsServer;
use PsqlSession;
use PublishTest;
use RelayTest;
use SilentProxy;

my $BACKLOG = 3000;

my $nats = NatsServer->new(jetstream => 1)->start;
my $client = NatsClient->new(url => $nats->url);
$client->create_stream('B', ['b.>'], storage => 'file');
my $proxy = SilentProxy->new($nats);
my $node = relay_node('main', 'nats_publish.url' => $proxy->url, 'log_statement' => 'none');
my $session = PsqlSession->new($node);

# How long a message takes until it is stored and deleted, in seconds.
sub time_of
{
	my ($subject) = @_;
	my $started = time;
	my $id = $session->value("SELECT nats_publish_outbox('$subject', 'x')");
	wait_for("the message of $subject", sub { $session->value("SELECT count(*) FROM nats_outbox WHERE id = $id") eq '0' });
	return time - $started;
}

# Some 45 messages of a subject in a second, with an expectation of their own, which go one by one however the relay keeps
# the order of others.
my $ALONE = q('{"Nats-Expected-Stream": "B"}');
$proxy->delay(0.01);
none_takes_longer(1, 'the server is a little far away', sub { time_of('b.first') });

foreach my $case ([ 1, 'strict' ], [ 3, 'strict' ], [ 1, 'pipelined' ])
{
	my ($hot, $ordering) = @$case;
	reconfigure($node, 'nats_publish.relay_ordering' => $ordering);
	$session->value("SELECT count(nats_publish_outbox('b.hot.' || i % $hot, i::text, $ALONE)) FROM generate_series(1, $BACKLOG) i");
	none_takes_longer(1.5, "with a backlog of $hot subjects, $ordering, messages of others go on", sub { map { time_of("b.healthy.$_") } 1 .. 5 });
	cmp_ok($session->value(q(SELECT count(*) FROM nats_outbox WHERE subject ~ 'hot')), '>', $BACKLOG / 2, 'while most of it is there yet');
	$proxy->delay(0);
	wait_until_drained($session);
	$proxy->delay(0.01);
}
reconfigure($node, 'nats_publish.relay_ordering' => undef);

# ---- Behind a message that has failed, and whose row somebody has locked

my $locker = PsqlSession->new($node);
$nats->stall;
$session->value(q(SELECT count(nats_publish_outbox('missing.a', i::text)) FROM generate_series(1, 2000) i));
wait_for_state($session, 'publishing');
$locker->value('BEGIN');
$locker->value(q(SELECT id FROM nats_outbox WHERE id = (SELECT min(id) FROM nats_outbox) FOR UPDATE));
$nats->resume;
sleep 2;
none_takes_longer(2, 'messages that wait behind a locked one hold up no others', sub { time_of('b.healthy.6') });
$proxy->delay(0);
$locker->value('COMMIT');
$client->create_stream('M', ['missing.>']);
wait_until_drained($session);
is_deeply([ map { $_->{payload} } NatsClient->new(url => $nats->url)->consume('M') ], [ 1 .. 2000 ], 'and go behind it');

my @messages = grep { $_->{subject} =~ /hot/ } NatsClient->new(url => $nats->url)->consume('B');
is(scalar(@messages), 3 * $BACKLOG, 'all of it is stored');
my %of_subject;
push @{ $of_subject{ $_->{subject} } }, $_->{payload} foreach @messages;
is_deeply($of_subject{'b.hot.0'}, [ 1 .. $BACKLOG, (grep { $_ % 3 == 0 } 1 .. $BACKLOG), 1 .. $BACKLOG ], 'subject 0 in order');
foreach my $hot (1, 2)
{
	is_deeply($of_subject{"b.hot.$hot"}, [ grep { $_ % 3 == $hot } 1 .. $BACKLOG ], "subject $hot, too");
}
$node->stop;
done_testing;
