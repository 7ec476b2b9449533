
=pod

=head1 NAME

OrderTest - in which order messages are in a stream

=head1 SYNOPSIS

  use OrderTest;

  my $chained = stream_is_in_order('all', [ $client->consume('O') ], 1 .. 100);
  subjects_are_in_order('of each subject', 'main', 100, $client->consume('O'));
  my $writer = OtherWriter->new($nats->url, 0.1, 'o.1', 'o.2');

=cut

package OrderTest;

use strict;
use warnings FATAL => 'all';

use Exporter 'import';
use Test::More;

our @EXPORT = qw(stream_is_in_order subjects_are_in_order);

=pod

=head1 FUNCTIONS

=over

=item stream_is_in_order($what, \@messages, @payloads)

A test: these are the payloads of the messages, in this order. Returns how many of the messages were chained.

=item subjects_are_in_order($what, $name, $count, @messages)

Two tests of those messages whose payload is the name of who has written it and a number: so many they are, and the numbers
grow in each subject. Returns how many of them were chained.

=item OtherWriter->new($url, $pause, @subjects), $writer->stop

A process that writes to each subject in turn, with so many seconds between two messages.

=back

=cut

sub chained
{
	return scalar grep { defined $_->{headers}{'Nats-Expected-Last-Msg-Id'} } @_;
}

sub stream_is_in_order
{
	my ($what, $messages, @expected) = @_;
	my @got = map { $_->{payload} } @$messages;
	my $different = 0;
	$different++ while $different < @got && $different < @expected && $got[$different] eq $expected[$different];
	ok($different == @got && @got == @expected, $what)
		or diag(scalar(@got) . ' of ' . scalar(@expected) . " messages, other ones from $different on: @got[ $different .. ($different + 5 < $#got ? $different + 5 : $#got) ]");
	return chained(@$messages);
}

sub subjects_are_in_order
{
	my ($what, $name, $count, @messages) = @_;
	my @mine = grep { $_->{payload} =~ /^\Q$name\E \d+$/ } @messages;
	my %last;
	my $disorder = 0;
	foreach my $message (@mine)
	{
		my ($number) = $message->{payload} =~ /(\d+)$/;
		$disorder++ if ($last{ $message->{subject} } // 0) >= $number;
		$last{ $message->{subject} } = $number;
	}
	is(scalar(@mine), $count, "$what: each message once");
	is($disorder, 0, "$what: in the order of each subject");
	return chained(@mine);
}

package OtherWriter;

use parent 'HelperProcess';
use POSIX ();
use Time::HiRes ();

use NatsClient;

sub new
{
	my ($class, $url, $pause, @subjects) = @_;
	my $self = bless { stop_signal => 'KILL' }, $class;
	my $parent = $$;
	$self->{pid} = fork() // die "fork: $!";
	if ($self->{pid} == 0)
	{
		my $client = NatsClient->new(url => $url);
		for (my $i = 1; getppid() == $parent; $i++)
		{
			$client->js_publish($subjects[ $i % @subjects ], "other $i");
			Time::HiRes::sleep($pause) if $pause;
		}
		POSIX::_exit(0);
	}
	$self->keep;
	return $self;
}

1;
