/*-------------------------------------------------------------------------
 *
 * catch.h
 *	  An expected ERROR becomes a value.
 *
 *-------------------------------------------------------------------------
 */
#ifndef NP_CATCH_H
#define NP_CATCH_H

/* Is an error with this SQLSTATE an answer to the question? */
typedef bool (*NpExpected) (int sqlstate);

extern bool np_is_of_others(int sqlstate);
extern bool np_is_of_server(int sqlstate);
extern ErrorData *np_catch(void (*function) (void *argument), void *argument, NpExpected is_expected);

#endif							/* NP_CATCH_H */
